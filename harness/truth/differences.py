"""Derivatives from values alone: central differences extrapolated to step zero, with an estimate of their error.

The algorithm is Ridders', "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982):
Neville's table over steps that halve. The entry with the least difference from its neighbours is taken. A kink that
only the long steps cross spoils only those.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 9  # steps, each half of the one before
FIRST = 0.05  # the longest of them, times the root mean square of the point
ENOUGH = 1e-12  # relative error at which no shorter step is tried
PAIRS_UP_TO = 40  # parameters up to which the Hessian can be had from the loss alone
CONSISTENT = 1e-6  # relative distance from differences of the loss up to which those of the gradient are believed
CURVATURE = 4  # times FIRST: the longest step of second differences


@dataclass(frozen=True)
class Line:
    """A loss along a line through a point, from its values: derivatives with estimates of their errors."""

    slope: float
    slope_error: float
    jump: float  # of the slope at the point, as at a kink; 0 but for rounding where the loss is smooth
    curvature: float
    curvature_error: float

    def slopes(self, found: float, consistent: float = CONSISTENT) -> bool:
        """Whether `found` may be the slope; at a kink it may lie anywhere between the slopes of both sides."""
        return abs(found - self.slope) <= max(consistent * abs(self.slope), 10 * self.slope_error, self.jump)

    def curves(self, found: float, consistent: float = CONSISTENT) -> bool:
        """Whether `found` may be the second derivative."""
        return abs(found - self.curvature) <= max(consistent * abs(self.curvature), 10 * self.curvature_error)


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, float]:
    """Hessian (P, P) of `loss` at `theta` (P,) in float64 and an estimate of its relative Frobenius error.

    The Hessian is computed from differences of the gradient. These may not be finite, or contradict the loss's own
    slope or curvature along a random direction: the gradient is then not the loss's, here or nearby. For up to 40
    parameters second differences of the loss are taken then. The error is infinite where neither gives an answer.
    """
    point = theta.detach()

    def gradient(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    units = torch.eye(len(point), dtype=point.dtype)
    direction = torch.randn(len(point), generator=torch.Generator().manual_seed(0), dtype=point.dtype)
    seen = line(loss, point, direction)
    columns = [along(gradient, point, unit) for unit in units]
    result = torch.stack([column for column, _ in columns], dim=1)
    slope, curvature = float(gradient(point) @ direction), float(direction @ result @ direction)
    if not (seen.slopes(slope) and seen.curves(curvature)):
        if len(point) > PAIRS_UP_TO:
            return result, math.inf
        columns = _from_values(_value(loss), point)
        result = torch.stack([column for column, _ in columns], dim=1)
    rounding = torch.finfo(point.dtype).eps * float(gradient(point).norm()) / (FIRST * rms_or_one(point))
    error = math.sqrt(sum(max(error, rounding) ** 2 for _, error in columns))
    size = float(result.norm())
    if size <= 10 * error < CONSISTENT:
        return torch.zeros_like(result), 0.0
    return result, error / size if math.isfinite(size) and size else math.inf


def line(loss: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, longest: float = FIRST) -> Line:
    """The derivatives of `loss` along a line through `point`, by steps of up to `longest` of its coordinates.

    The estimated errors are at least those that rounding of the loss causes with the longest steps.
    """
    value = functools.cache(lambda step: _value(loss)(point + step * direction))
    size = rms_or_one(point)
    rounding = torch.finfo(point.dtype).eps * abs(float(value(0.0)))

    def first(step: float) -> Tensor:
        return (value(step) - value(-step)) / (2 * step)

    def second(step: float) -> Tensor:
        return (value(step) - 2 * value(0.0) + value(-step)) / step**2

    slope, slope_error = extrapolated(first, longest * size)
    curvature, curvature_error = extrapolated(second, CURVATURE * longest * size)
    shortest = longest * size / 2 ** (LEVELS - 1)
    jump = 2 * shortest * (second(shortest) - second(2 * shortest))  # curvature cancels, of order step^3 remains
    return Line(
        slope=float(slope),
        slope_error=max(slope_error, rounding / (longest * size)),
        jump=abs(float(jump)),
        curvature=float(curvature),
        curvature_error=max(curvature_error, 4 * rounding / (CURVATURE * longest * size) ** 2),
    )


def along(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> tuple[Tensor, float]:
    """Derivative of `function` at `point` along `direction` and an estimate of the Euclidean norm of its error."""

    def central(step: float) -> Tensor:
        return (function(point + step * direction) - function(point - step * direction)) / (2 * step)

    return extrapolated(central, FIRST * rms_or_one(point))


def extrapolated(estimate: Callable[[float], Tensor], step: float) -> tuple[Tensor, float]:
    """The limit at step 0 of an estimate whose error is a series in the step's square, and an estimate of its error."""
    before = [estimate(step)]
    best, least = torch.full_like(before[0], math.nan), math.inf
    for level in range(1, LEVELS):
        row = [estimate(step / 2**level)]
        for order, coarser in enumerate(before, 1):
            row.append(row[-1] + (row[-1] - coarser) / (4**order - 1))
            error = float(torch.maximum((row[-1] - row[-2]).norm(), (row[-1] - coarser).norm()))
            if error < least:
                best, least = row[-1], error
        before = row
        if least <= ENOUGH * float(best.norm()):
            break
    return best, least


def rms_or_one(point: Tensor) -> float:
    """The root mean square of a point, or 1 at zero."""
    return float(point.detach().square().mean().sqrt()) or 1.0


def _value(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The values (1,) of a loss, called with parameters that require grad as autograd calls it."""
    return lambda at: loss(at.detach().requires_grad_()).detach().reshape(1)


def _from_values(value: Callable[[Tensor], Tensor], point: Tensor) -> list[tuple[Tensor, float]]:
    """The Hessian's columns (P,), each with its error, from second differences of the loss."""
    units = torch.eye(len(point), dtype=point.dtype)
    entries = torch.zeros_like(units)
    errors = torch.zeros_like(units)
    for i, j in itertools.combinations_with_replacement(range(len(point)), 2):
        found, error = _mixed(value, point, units[i], units[j])
        entries[i, j] = entries[j, i] = found
        errors[i, j] = errors[j, i] = error
    return list(zip(entries.unbind(1), errors.norm(dim=0).tolist(), strict=True))


def _mixed(value: Callable[[Tensor], Tensor], point: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, float]:
    """The second derivative of a scalar along two directions, and an estimate of its error."""

    def estimate(step: float) -> Tensor:
        ahead, aside = step * first, step * second
        outer = value(point + ahead + aside) + value(point - ahead - aside)
        return (outer - value(point + ahead - aside) - value(point - ahead + aside)) / (4 * step**2)

    return extrapolated(estimate, CURVATURE * FIRST * rms_or_one(point))
