"""What is differentiated: a frozen problem, the ready-made ones, and the user's own."""

from harness.problems.casting import tensors_of
from harness.problems.problem import Problem, ProblemError, build, check, from_function, from_network, subset

__all__ = ["Problem", "ProblemError", "build", "check", "from_function", "from_network", "subset", "tensors_of"]
