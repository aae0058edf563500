"""Derivatives from values alone: central differences extrapolated to step zero, with an estimate of their own error.

Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982): Neville's table
over steps that halve, of which the entry with the least difference from its neighbours is taken. A kink that the long
steps cross spoils only those.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

LEVELS = 9  # steps, each half of the one before
FIRST = 0.05  # the longest of them, times the root mean square of the point
ENOUGH = 1e-12  # relative error at which no shorter step is tried
PAIRS_UP_TO = 40  # parameters up to which the Hessian can be had from the loss alone
CONSISTENT = 1e-6  # relative distance from differences of the loss at which those of the gradient are believed


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, float]:
    """Hessian (P, P) of `loss` at `theta` (P,) in float64 and an estimate of its relative Frobenius error.

    From differences of the gradient. Where these are not finite, or contradict those of the loss itself in slope or
    curvature along a random direction (the gradient is then not the loss's, here or nearby), from second differences of
    the loss, for up to 40 parameters. The error is infinite where neither gives an answer.
    """
    point = theta.detach()

    def gradient(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    def value(at: Tensor) -> Tensor:
        with torch.no_grad():
            return loss(at).reshape(1)

    units = torch.eye(len(point), dtype=point.dtype)
    direction = torch.randn(len(point), generator=torch.Generator().manual_seed(0), dtype=point.dtype)
    slope, slope_error = along(value, point, direction)
    curvature, curvature_error = _mixed(value, point, direction, direction)
    columns = [along(gradient, point, unit) for unit in units]
    result = torch.stack([column for column, _ in columns], dim=1)
    if not (_agree(gradient(point) @ direction, slope, slope_error)
            and _agree(direction @ result @ direction, curvature, curvature_error)):  # fmt: skip
        if len(point) > PAIRS_UP_TO:
            return result, math.inf
        columns = _from_values(value, point)
        result = torch.stack([column for column, _ in columns], dim=1)
    error = math.sqrt(sum(error**2 for _, error in columns))
    size = float(result.norm())
    if size <= 10 * error < CONSISTENT:
        return torch.zeros_like(result), 0.0
    return result, error / size if math.isfinite(size) and size else math.inf


def _agree(found: Tensor, true: Tensor, error: float) -> bool:
    return bool((found - true).abs() <= max(CONSISTENT * float(true.abs()), 10 * error))


def along(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> tuple[Tensor, float]:
    """Derivative of `function` at `point` along `direction` and an estimate of the Euclidean norm of its error."""

    def central(step: float) -> Tensor:
        return (function(point + step * direction) - function(point - step * direction)) / (2 * step)

    return extrapolated(central, FIRST * scale(point))


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


def scale(point: Tensor) -> float:
    """The root mean square of a point, or 1 at zero."""
    return float(point.square().mean().sqrt()) or 1.0


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
        return (value(point + ahead + aside) - value(point + ahead - aside) - value(point - ahead + aside)
                + value(point - ahead - aside)) / (4 * step**2)  # fmt: skip

    return extrapolated(estimate, 4 * FIRST * scale(point))
