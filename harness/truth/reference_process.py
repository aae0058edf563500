"""The reference, computed once for all methods of a problem, in a process that has imported no method."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.job import Job
from harness.measure import ranks
from harness.problems import Problem, ProblemError, tensors_of
from harness.problems.binding import vectors_of
from harness.truth.reference import Reference, reference


@dataclass(frozen=True)
class Truth:
    """What results are compared with, and the point at which it was computed."""

    reference: Reference  # of the Hessian, or of the GGN for quantity=ggn
    hessian: Reference | None  # of the Hessian, where `reference` is of a GGN
    theta: Tensor  # (P,), float64 on the CPU
    loss: float  # at theta, in float64
    data: str  # checksum of the inputs, targets and data, in float64


def compute(job: Job, problem: Problem) -> bytes:
    """The truth for a job's problem, as it was built and cast; a file of it is read by `load`."""
    exact, vectors = problem.to("cpu", torch.float64), vectors_of(job, problem.theta)
    if vectors is not None:
        vectors = vectors.to("cpu", torch.float64)
    seed = job.seed + 2
    asked = job.quantity, job.stop_gradient, job.k, job.damping
    compared = reference(exact, vectors, job.measure, seed, *asked)
    hessian = None
    if job.quantity == "ggn":
        hessian = reference(exact, None, job.measure, seed, stop_gradient=job.stop_gradient)
    saved = io.BytesIO()  # of a full disk torch.save does not raise OSError
    torch.save(Truth(compared, hessian, exact.theta, _loss(exact), _checksum(exact)), saved)
    return saved.getvalue()


def load(path: Path) -> Truth:
    """The truth that `compute` has returned. Load it before the method is imported."""
    return torch.load(path, weights_only=False)


def require_same_point(truth: Truth, problem: Problem) -> None:
    """Raise ProblemError unless the problem, built again here, is the one that the truth was computed for."""
    exact = problem.to("cpu", torch.float64)
    value = _loss(exact)
    same_given = torch.equal(truth.theta, exact.theta) and truth.data == _checksum(exact)
    both_nan = math.isnan(value) and math.isnan(truth.loss)
    same_loss = value == truth.loss or both_nan or abs(value - truth.loss) <= 1e-6 * abs(truth.loss)
    if not (same_given and same_loss):
        raise ProblemError(
            f"the problem is another one each time that it is built (loss {truth.loss:.9g} and {value:.9g}), so that "
            "no two processes measure the same: draw everything from the builder's `seed`, or load saved weights and "
            "data"
        )


def require_same_in_all_ranks(problem: Problem) -> None:
    """Raise ProblemError in a rank whose problem is not that of rank 0, which all of them have built."""
    exact = problem.to("cpu", torch.float64)
    theta = hashlib.sha256(exact.theta.numpy().tobytes()).hexdigest()
    own = {"P": len(exact.theta), "theta": theta, "the data": _checksum(exact), "the loss": _loss(exact)}
    first = ranks.of_all(own)[0]
    differing = [name for name in own if own[name] != first[name] and own[name] == own[name]]
    if differing:
        raise ProblemError(
            f"it has built another problem than rank 0: {', '.join(differing)} differ (P={own['P']} and {first['P']}, "
            f"loss {own['the loss']:.9g} and {first['the loss']:.9g}); draw everything from the builder's `seed`, or "
            "load saved weights and data"
        )


def _loss(problem: Problem) -> float:
    """The loss at theta. Theta requires a gradient here, for networks that take one themselves."""
    return float(problem.loss(problem.theta.detach().requires_grad_()).detach())


def _checksum(problem: Problem) -> str:
    """SHA-256 of the tensors among the inputs, targets and data."""
    found = hashlib.sha256()
    for tensor in tensors_of((problem.inputs, problem.targets, problem.data)):
        shape = "" if tensor.is_nested else tuple(tensor.shape)
        found.update(f"{tensor.layout} {tensor.dtype} {shape}".encode())
        for part in _strided(tensor.detach()):
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _strided(tensor: Tensor) -> list[Tensor]:
    """Strided tensors that hold the entries of a tensor of any layout."""
    if tensor.is_nested:
        return [part for entry in tensor.unbind() for part in _strided(entry)]
    if tensor.layout == torch.strided:
        return [tensor.resolve_conj().resolve_neg()]
    coordinates = tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo()
    return [coordinates._indices(), coordinates._values()]
