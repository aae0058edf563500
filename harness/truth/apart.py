"""The reference in a process of its own: computed where no method was imported, once for all methods of a problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.binding import vectors_of
from harness.job import Job
from harness.problems import Problem
from harness.problems.problem import ProblemError
from harness.reference import Reference, reference


@dataclass(frozen=True)
class Truth:
    """What results are compared with, and the point that it was computed at."""

    of: Reference  # the Hessian, or the GGN for quantity=ggn
    hessian: Reference | None  # the Hessian beside a GGN
    theta: Tensor  # (P,), float64 on the CPU
    loss: float  # there, in float64


def compute(job: Job, problem: Problem, path: Path) -> None:
    """Compute the truth for a job's problem, as it was built and cast, and save it."""
    exact, vectors = problem.to("cpu", torch.float64), vectors_of(job, problem.theta)
    vectors = None if vectors is None else vectors.to("cpu", torch.float64)
    seed = job.seed + 2
    of = reference(exact, vectors, job.measure, seed, job.quantity, job.stop_gradient)
    hessian = None
    if job.quantity == "ggn":
        hessian = reference(exact, None, job.measure, seed, stop_gradient=job.stop_gradient)
    torch.save(Truth(of, hessian, exact.theta, _loss(exact)), path)


def load(path: Path) -> Truth:
    """The truth that `compute` has saved; to be loaded before the method is imported."""
    return torch.load(path, weights_only=False)


def require_same_point(truth: Truth, problem: Problem) -> None:
    """Raise ProblemError unless the problem, built again here, is the one that the truth was computed for."""
    exact = problem.to("cpu", torch.float64)
    value = _loss(exact)
    same = torch.equal(truth.theta, exact.theta) and abs(value - truth.loss) <= 1e-6 * max(1.0, abs(truth.loss))
    if not same:
        raise ProblemError(
            f"the problem is another one each time that it is built (loss {truth.loss:.9g} and {value:.9g}), so that "
            "no two processes measure the same: draw everything from the builder's `seed`, or load saved weights and "
            "data"
        )


def _loss(problem: Problem) -> float:
    return float(problem.loss(problem.theta.detach().requires_grad_()).detach())  # for networks that take a gradient
