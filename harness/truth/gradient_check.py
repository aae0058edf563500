"""Is the gradient the slope of the loss? Where it is not, what explains the difference?

Autograd does not differentiate what has left its graph.

- A part of the loss may be held constant on purpose: `.detach()` in a focal loss, the target of temporal differences, a
  teacher under `torch.no_grad()`. Autograd's derivatives are then what is meant.
- The graph may be cut by accident: `torch.tensor([...])` of tensors, `.item()`. Every derivative is then wrong, and all
  methods agree.

Both show in the loss's values along a random direction. They are told apart by what explains the difference: with the
detached values held constant, the loss's slope must be the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.problems import Problem
from harness.truth import differences
from harness.truth.detached_values import CUT, STOP, Observed, held, observe

COARSE = 1e-3  # departure that counts though nothing explains it, where the loss is too coarse for short steps
SHORTER = 1e-3  # times the usual steps: with these, less of what a kink nearby does to the slope is left
NAMED = 3  # calls in a message
# What explains a gradient that is not the slope.
STOPPED, IS_CUT, OWN_BACKWARD, UNKNOWN = "a stop-gradient", "a cut graph", "a backward of its own", "unknown"

Loss = Callable[[Tensor], Tensor]  # (P,) -> ()


@dataclass(frozen=True)
class Departure:
    """How the gradient differs from the slope of the loss."""

    cause: str  # STOPPED, IS_CUT, OWN_BACKWARD or UNKNOWN
    slope: float  # relative difference of the gradient from the slope, along random directions
    curvature: float  # the same of the second derivative; 0 where differences cannot tell
    calls: tuple[str, ...]  # the calls that explain it, with their lines
    stated: bool  # whether the user states `problem.stop_gradient=false`

    @property
    def right(self) -> bool:
        """Whether what autograd gives may be what is meant."""
        return self.cause in (STOPPED, OWN_BACKWARD) and not self.stated

    @property
    def message(self) -> str:
        """What was found, and how the user can state what is meant."""
        what = "the gradient is not the slope of the loss" if self.slope else "the curvature is not that of the loss"
        off = self.slope or self.curvature
        found = f"{what} (off by {100 * off:.3g} %)"
        calls = self._listed_calls()
        if self.stated:
            return f"{found}, and problem.stop_gradient=false says that no part of it is held constant; met: {calls}"
        if self.cause == STOPPED:
            return (
                f"{found}: it looks like an intended stop-gradient, by {calls}, and what is held constant is taken as "
                "constant; state problem.stop_gradient=true, or false if this is a fault"
            )
        if self.cause == OWN_BACKWARD:
            return (
                f"{found}: {calls} has a backward of its own, which is taken as meant; state "
                "problem.stop_gradient=true, or false if this is a fault"
            )
        if self.cause == IS_CUT:
            return (
                f"{found}: the graph is cut by {calls}; build it from tensors (torch.stack, torch.where), or state "
                "problem.stop_gradient=true if that part is meant to be constant"
            )
        return (
            f"{found}: the graph is cut or a backward is wrong, by a call that the harness does not see; state "
            "problem.stop_gradient=true if that is meant"
        )

    def _listed_calls(self) -> str:
        if not self.calls:
            return "nothing that the harness can see"
        listed = ", ".join(self.calls[:NAMED])
        return f"{listed} and {len(self.calls) - NAMED} more" if len(self.calls) > NAMED else listed


@dataclass(frozen=True)
class CheckedProblem:
    """A problem whose loss is what autograd differentiates, and what the check has found."""

    problem: Problem
    held: frozenset[str]  # kinds of detached values that are constant in this loss
    observed: Observed  # in a call of the loss as it was given
    departure: Departure | None
    trusted: bool  # autograd's products are the truth, whatever differences say: its gradient is meant


def check_gradient(problem: Problem, stated: bool | None) -> CheckedProblem:
    """The problem to be judged by, with the departure of its gradient from the slope of its loss.

    `stated` is the user's statement on values that have left the graph: they are constant (True), they are not (False),
    or nothing is stated (None). A constant part is held at its value, so that differences find the derivatives that
    autograd finds. Departures are not seen below 1e-6, or below ten times the estimated error of the differences.
    """
    loss, theta = problem.loss, problem.theta
    observed = observe(loss, theta)
    if stated:
        fixed = _held_constant(problem, observed, {STOP, CUT})
        departs = _departures(fixed.loss, theta, observed)[0] > 0
        return CheckedProblem(fixed, frozenset({STOP, CUT}), observed, None, trusted=departs)
    slope, curvature = _departures(loss, theta, observed)
    cause, calls = _cause(loss, theta, observed, slope) if slope or curvature else (None, ())
    if cause is None:
        return CheckedProblem(problem, frozenset(), observed, None, trusted=False)
    departure = Departure(cause, slope, curvature, calls, stated is False)
    kinds = {STOP} if cause == STOPPED and departure.right else set()
    trusted = cause == OWN_BACKWARD and departure.right
    return CheckedProblem(_held_constant(problem, observed, kinds), frozenset(kinds), observed, departure, trusted)


def _held_constant(problem: Problem, observed: Observed, kinds: set[str]) -> Problem:
    """The problem with its detached values of these kinds held constant."""
    return replace(problem, loss=held(problem.loss, observed, kinds)) if observed.names(kinds) else problem


def _cause(loss: Loss, theta: Tensor, observed: Observed, slope: float) -> tuple[str | None, tuple[str, ...]]:
    """What explains a departure, with the calls at fault; None where it may be a kink or autograd's own error."""
    for cause, kinds, named in ((STOPPED, {STOP}, {STOP}), (IS_CUT, {STOP, CUT}, {CUT})):
        if observed.names(kinds) and _departures(held(loss, observed, kinds), theta, observed) == (0.0, 0.0):
            return cause, observed.names(named)
    short_steps_tell = observed.inner_dtype is None
    if short_steps_tell and not _persists_at_short_steps(loss, theta, slope):
        return None, ()
    if not short_steps_tell and slope < COARSE:
        return None, ()
    return (OWN_BACKWARD, observed.own_backward) if observed.own_backward else (UNKNOWN, ())


def _persists_at_short_steps(loss: Loss, theta: Tensor, slope: float) -> bool:
    """Whether a departure of the gradient from the slope is there at much shorter steps too, unlike that of a kink."""
    found = [_departures_along(loss, theta, direction, SHORTER)[0] for direction in _directions(theta)]
    return slope > 0 and min(found) > slope / 2


def _departures(loss: Loss, theta: Tensor, observed: Observed) -> tuple[float, float]:
    """Least relative departures of the gradient and of v^T H v from the loss's own, along two directions v.

    They are 0 where the loss agrees along one direction, or cannot tell. A cut graph shows along almost every
    direction.
    """
    consistent = differences.CONSISTENT
    if observed.inner_dtype is not None:
        consistent = max(consistent, 1000 * torch.finfo(observed.inner_dtype).eps)
    slopes, curvatures = [], []
    for direction in _directions(theta):
        slope, curvature = _departures_along(loss, theta, direction, consistent=consistent)
        slopes.append(slope)
        curvatures.append(curvature)
        if not slope and not curvature:
            return 0.0, 0.0
    return min(slopes), min(curvatures)


def _directions(theta: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield torch.randn(len(theta), generator=generator, dtype=theta.dtype)


def _departures_along(
    loss: Loss,
    theta: Tensor,
    direction: Tensor,
    shorter: float = 1.0,
    consistent: float = differences.CONSISTENT,
) -> tuple[float, float]:
    """The relative departures along a direction v, by differences with steps so many times the usual ones."""
    slope, curvature = _by_autograd(loss, theta, direction)
    line = differences.line(loss, theta, direction, shorter * differences.FIRST)
    return (
        _relative(slope, line.slope, line.slopes(slope, consistent)),
        _relative(curvature, line.curvature, line.curves(curvature, consistent)),
    )


def _relative(found: float, true: float, agrees: bool) -> float:
    """|found - true| over the larger; 0 where they agree or one is not a number."""
    if agrees or not (math.isfinite(found) and math.isfinite(true)):
        return 0.0
    return abs(found - true) / max(abs(found), abs(true))


def _by_autograd(loss: Loss, theta: Tensor, direction: Tensor) -> tuple[float, float]:
    """The gradient times v, and v^T H v; NaN where an operator has no second derivative."""
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    slope = gradient @ direction
    if not slope.requires_grad:
        return float(slope), 0.0
    try:
        (product,) = torch.autograd.grad(slope, theta, materialize_grads=True)
    except (RuntimeError, NotImplementedError):
        return float(slope.detach()), math.nan
    return float(slope.detach()), float(product @ direction)
