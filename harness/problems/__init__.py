"""What is differentiated: a frozen problem, the ready-made ones, and the user's own."""

from harness.problems.batches import from_batches, split
from harness.problems.builders import build
from harness.problems.casting import tensors_of
from harness.problems.checks import check
from harness.problems.chosen import chosen
from harness.problems.construction import from_function, from_network
from harness.problems.errors import ProblemError
from harness.problems.per_sample import per_sample, require_possible
from harness.problems.problem import Problem
from harness.problems.subset import subset
from harness.problems.training import trained

__all__ = [
    "Problem",
    "ProblemError",
    "build",
    "check",
    "chosen",
    "from_batches",
    "from_function",
    "from_network",
    "per_sample",
    "require_possible",
    "split",
    "subset",
    "tensors_of",
    "trained",
]
