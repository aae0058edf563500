"""The plain loss as judge: is the gradient its slope, and where it is not, what does that look like?

Autograd does not differentiate what left its graph. Where a part of the loss is held constant on purpose (`.detach()`
in a focal loss, the target of temporal differences, a teacher under `torch.no_grad()`), that is what is meant. Where
the graph was cut by accident (`torch.tensor([...])` of tensors, `.item()`), every derivative is wrong, and all methods
agree. Both show in the loss's values along a random direction, and are told apart by what explains the difference: with
those values held constant, the loss's slope must be the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.problems import Problem
from harness.truth import differences
from harness.truth.leaving import CUT, STOP, Seen, held, watch

COARSE = 1e-3  # relative departure that counts though nothing explains it, where the loss is too coarse for short steps
SHORTER = 1e-3  # times the usual steps: with these, less of what a kink nearby does to the slope is left
# What a gradient that is not the slope looks like.
STOPPED, IS_CUT, OWN_BACKWARD, UNKNOWN = "a stop-gradient", "a cut graph", "a backward of its own", "unknown"


@dataclass(frozen=True)
class Departure:
    """How the gradient differs from the slope of the loss."""

    look: str  # STOPPED, IS_CUT, OWN_BACKWARD or UNKNOWN
    slope: float  # relative difference of the gradient from the slope, along random directions
    curvature: float  # the same of the second derivative; 0 where differences cannot tell
    met: tuple[str, ...]  # the calls that explain it, with their lines
    stated: bool  # whether the user said `problem.stop_gradient=false`

    @property
    def right(self) -> bool:
        """Whether what autograd gives may be what is meant."""
        return self.look in (STOPPED, OWN_BACKWARD) and not self.stated

    @property
    def message(self) -> str:
        """What was found and how to say what is meant."""
        what = "the gradient is not the slope of the loss" if self.slope else "the curvature is not that of the loss"
        met = ", ".join(self.met[:3]) + (f" and {len(self.met) - 3} more" if len(self.met) > 3 else "")
        met = met or "nothing that the harness can see"
        off = self.slope or self.curvature
        found = f"{what} (off by {100 * off:.3g} %)"
        if self.stated:
            return f"{found}, and problem.stop_gradient=false says that no part of it is held constant; met: {met}"
        if self.look == STOPPED:
            return (
                f"{found}: it looks like an intended stop-gradient, by {met}, and what is held constant is taken as "
                "constant; state problem.stop_gradient=true, or false if this is a fault"
            )
        if self.look == OWN_BACKWARD:
            return (
                f"{found}: {met} has a backward of its own, which is taken as meant; state problem.stop_gradient=true, "
                "or false if this is a fault"
            )
        if self.look == IS_CUT:
            return (
                f"{found}: the graph is cut by {met}; build it from tensors (torch.stack, torch.where), or state "
                "problem.stop_gradient=true if that part is meant to be constant"
            )
        return (
            f"{found}: the graph is cut or a backward is wrong, by a call that the harness does not see; state "
            "problem.stop_gradient=true if that is meant"
        )


@dataclass(frozen=True)
class Settled:
    """A problem whose loss is what autograd differentiates."""

    problem: Problem
    held: frozenset[str]  # kinds of what left the graph that are constant
    seen: Seen  # of the loss as it was given
    departure: Departure | None
    trusted: bool  # autograd's products are the truth, whatever differences say: its gradient is meant


def settle(problem: Problem, stated: bool | None) -> Settled:
    """The problem to be judged by, with the departure of its gradient from the slope of its loss.

    `stated` is the user's word: True, what left the graph is constant; False, nothing is; None, not said. A constant
    part is held at its value, so that differences find the derivatives that autograd finds. Departures of less than
    1e-6, or than ten times the estimated error of the differences, are not seen.
    """
    loss, theta = problem.loss, problem.theta
    seen = watch(loss, theta)
    if stated:
        fixed = _settled(problem, seen, {STOP, CUT}, None, trusted=False)
        return replace(fixed, trusted=_departures(fixed.problem.loss, theta, seen)[0] > 0)
    slope, curvature = _departures(loss, theta, seen)
    look, met = _look(loss, theta, seen, slope) if slope or curvature else (None, ())
    if look is None:
        return _settled(problem, seen, set(), None, trusted=False)
    departure = Departure(look, slope, curvature, met, stated is False)
    kinds = {STOP} if look == STOPPED and departure.right else set()
    return _settled(problem, seen, kinds, departure, look == OWN_BACKWARD and departure.right)


def _settled(problem: Problem, seen: Seen, kinds: set[str], departure: Departure | None, trusted: bool) -> Settled:
    fixed = replace(problem, loss=held(problem.loss, seen, kinds)) if seen.names(kinds) else problem
    return Settled(fixed, frozenset(kinds), seen, departure, trusted)


def _look(loss: Callable[[Tensor], Tensor], theta: Tensor, seen: Seen, slope: float) -> tuple[str | None, tuple]:
    """What explains a departure, with the calls that were met; None where it may be a kink or is autograd's own."""
    for look, kinds in ((STOPPED, {STOP}), (IS_CUT, {STOP, CUT})):
        if seen.names(kinds) and _departures(held(loss, seen, kinds), theta, seen) == (0.0, 0.0):
            return look, seen.names({STOP} if look == STOPPED else {CUT})
    believed = _stays(loss, theta, slope) if seen.inner_dtype is None else slope >= COARSE
    if not believed:
        return None, ()
    return (OWN_BACKWARD, seen.own_backward) if seen.own_backward else (UNKNOWN, ())


def _stays(loss: Callable[[Tensor], Tensor], theta: Tensor, slope: float) -> bool:
    """Whether a departure of the gradient from the slope is there at much shorter steps too, unlike that of a kink."""
    found = [_along(loss, theta, direction, SHORTER)[0] for direction in _directions(theta)]
    return slope > 0 and min(found) > slope / 2


def _departures(loss: Callable[[Tensor], Tensor], theta: Tensor, seen: Seen) -> tuple[float, float]:
    """Least relative departures of the gradient and of v^T H v from the loss's own, along two directions v.

    0 where the loss agrees along one of them, or cannot tell. What is cut shows along almost every direction.
    """
    consistent = differences.CONSISTENT
    if seen.inner_dtype is not None:
        consistent = max(consistent, 1000 * torch.finfo(seen.inner_dtype).eps)
    slopes, curvatures = [], []
    for direction in _directions(theta):
        slope, curvature = _along(loss, theta, direction, consistent=consistent)
        slopes.append(slope)
        curvatures.append(curvature)
        if not slope and not curvature:
            return 0.0, 0.0
    return min(slopes), min(curvatures)


def _directions(theta: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield torch.randn(len(theta), generator=generator, dtype=theta.dtype)


def _along(
    loss: Callable[[Tensor], Tensor],
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


def _by_autograd(loss: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor) -> tuple[float, float]:
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
