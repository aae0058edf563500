"""Whether a loss keeps a state between calls, such as an activation that a model caches when it is first called."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from harness.problems.casting import tensors_of
from harness.problems.errors import ProblemError
from harness.problems.problem import Problem

MOVE = 0.01  # how far the parameters are moved, relative to their size
RANDOM = 1e-6  # relative changes that a loss may have at random
CALLS, CALLS_S = 8, 0.5  # so many calls, or calls for so many seconds, must give the first call's value
LARGE = 10**6  # parameters beyond which the copies would cost too much
STATE = (
    "the loss keeps a state between calls: {}. A Hessian takes many calls, at other parameters too, and each must "
    "compute everything from its parameters: remove the cache or the counter"
)


def check_state(problem: Problem) -> Tensor | None:
    """The loss () of the first call; raises ProblemError where a later call differs from a first one.

    In a copy of the problem the gradient of the first call is compared with that of the second. A call at moved
    parameters is compared with the first call of another copy there. The problem itself is not called.

    A loss that cannot be called, or of LARGE size, passes with None. A loss whose value is random passes too: `check`
    reports it. The second comparison does not see a state that all copies share, such as a global cache or a dict that
    a closure fills.
    """
    theta, device, dtype = problem.theta, problem.theta.device, problem.theta.dtype
    if len(theta) > LARGE:
        return None
    noise = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(theta)
    moved = theta * (1 + MOVE) + MOVE * (theta.square().mean().sqrt() or 1.0) * noise
    try:
        used, fresh = problem.to(device, dtype), problem.to(device, dtype)
        value, gradient = _value_and_gradient(used, theta)
        second_value, second_gradient = _value_and_gradient(used, theta)
        later = _value_and_gradient(used, moved)
        if not _nearly_equal(value, second_value):
            return value
        unused = _value_and_gradient(fresh, moved)
        random = not _nearly_equal(unused[0], _value_and_gradient(fresh, moved)[0])
    except Exception:  # of any kind: it is the user's own code
        return None
    if not _nearly_equal(gradient, second_gradient):
        raise ProblemError(STATE.format("the gradient of the second call is not that of the first"))
    if not random and not all(map(_nearly_equal, later, unused)):
        raise ProblemError(
            STATE.format("at other parameters it is not what it is for a copy that was not called before")
        )
    return value


def check_later(problem: Problem, value: Tensor) -> None:
    """Raise ProblemError where further calls give another value of the loss than `value` ()."""
    began = time.monotonic()
    for _ in range(CALLS):
        require_same(value, problem.loss(problem.theta.detach().requires_grad_()))
        if time.monotonic() - began > CALLS_S:
            return


def require_same(value: Tensor, later: Tensor) -> None:
    """Raise ProblemError where the loss () of a later call has another value."""
    if not _nearly_equal(value.detach(), later.detach()):
        raise ProblemError(STATE.format(f"{value.item()} in a first call, {later.item()} in a later one"))


def _value_and_gradient(problem: Problem, at: Tensor) -> tuple[Tensor, Tensor]:
    """The loss () and its gradient (P,) at some parameters; torch's generators are seeded, and put back."""

    def evaluated() -> tuple[Tensor, Tensor]:
        theta = at.detach().clone().requires_grad_()
        value = problem.loss(theta)
        (gradient,) = torch.autograd.grad(value, theta, allow_unused=True)
        return value.detach(), torch.zeros_like(at) if gradient is None else gradient

    with torch.enable_grad():
        return seeded(evaluated, gpus_of(problem))


def gpus_of(problem: Problem) -> list[int]:
    """The GPUs that a problem's tensors are on; none where CUDA is not in use. Asking must not start CUDA."""
    if not torch.cuda.is_initialized():
        return []
    held = [problem.theta, *problem.leaves, *tensors_of(problem.plain)]
    return sorted({tensor.device.index for tensor in held if tensor.device.type == "cuda"})


def seeded(function: Any, gpus: list[int]) -> Any:
    """What a function returns with torch's generators seeded, of the CPU and of these GPUs; they are put back."""
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(0)
        for index in gpus:
            torch.cuda.default_generators[index].manual_seed(0)
        return function()


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two results are equal up to RANDOM, or up to half of their digits: the order of sums may change those."""
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        return True
    tolerance = max(RANDOM, torch.finfo(other.dtype).eps ** 0.5)
    return float((one - other).norm()) <= tolerance * max(float(one.norm()), float(other.norm()))
