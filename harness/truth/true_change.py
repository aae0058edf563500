"""How the true result changes where theta moves, for comparison with what a method returns there."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from harness.problems import Problem
from harness.problems.binding import BoundMethod
from harness.truth.products import of_ggn, of_hessian
from harness.truth.sketch import signs

CHANGED = 1e-3  # relative change of the true result that a right method shows,
ROUNDINGS = 16  # and as many units in the last place of theta's dtype
COORDINATES = 16  # vectors at most, in whose products a true change is looked for
DIFFERENCE = 1e-4  # step of central differences, times the root mean square of theta
MAGNIFIED = 1e-2  # a change by autograd that is a smaller part than this of that by differences is rounding
CPU = torch.device("cpu")


class TrueForm:
    """The true value of the number s^T H t that `ResultRecorder` keeps of a Hessian, by double backward in float64."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._before = self._value()

    def was_left(self, before: float, now: float) -> bool:
        """Whether a result was right where it was checked, and does not follow the true one to where theta is now.

        `before` and `now` are the numbers of the result at both points. The question is asked only where `before` is
        the true number to a tenth of the change: not where autograd is wrong, and not in half precision.
        """
        true = self._value()
        if self._before is None or true is None:
            return False
        change = abs(true - self._before)
        follows = abs(now - true) <= change / 2
        return abs(before - self._before) <= change / 10 and not follows

    def _value(self) -> float | None:
        """The number at the present theta; None where it cannot be computed."""
        theta = self._problem.theta
        generator = torch.Generator().manual_seed(0)
        left, right = (signs((1, theta.numel()), generator, torch.float64, CPU)[0] for _ in range(2))
        try:
            exact = self._problem.to(CPU, torch.float64)
            products, _ = of_hessian(replace(exact, theta=theta.detach().to(CPU, torch.float64)))
            return float(left @ products.one(right))
        except (RuntimeError, ValueError):
            return None


def true_result_changed(bound: BoundMethod, move: Tensor, until: float) -> bool:
    """Whether the quantity is another where theta has moved; a quadratic loss has the same Hessian everywhere.

    The change is looked for in a few products with the true matrix, as many as can be had until `time.monotonic()` is
    `until`. Both autograd's products and those of central differences must have changed: neither alone is right for
    every loss. Where the true values are zero, both are rounding, which differences magnify by one over their step.
    """
    exact = bound.problem.to("cpu", torch.float64)
    of_quantity = of_ggn if bound.job.quantity == "ggn" else of_hessian
    blockwise = bound.job.quantity in ("diagonal", "block_diagonal", "trace")
    changes = torch.zeros(2, dtype=torch.float64)  # squared: of autograd's products, of those by differences
    sizes = torch.zeros(2, dtype=torch.float64)
    try:
        here, there = (of_quantity(replace(exact, theta=exact.theta - shift)) for shift in (move.double().cpu(), 0.0))
        for vector in _vectors(bound).unbind(1):
            if time.monotonic() > until:
                break
            belongs = vector != 0 if blockwise else 1.0
            before, after = (
                torch.stack([products.one(vector), differences(DIFFERENCE)(vector)])
                for products, differences in (here, there)
            )
            changes += (belongs * (after - before)).square().sum(1)
            sizes += before.square().sum(1)
    except (RuntimeError, ValueError):  # the true products cannot be computed there
        return False
    enough = max(CHANGED, ROUNDINGS * torch.finfo(bound.problem.theta.dtype).eps)
    changes, sizes = changes.sqrt(), sizes.sqrt()
    return bool((changes > enough * sizes).all()) and bool(changes[0] > MAGNIFIED * changes[1])


def _vectors(bound: BoundMethod) -> Tensor:
    """Vectors (P, k) whose products show the quantity: units for a diagonal or trace, one vector for each block."""
    count = bound.problem.theta.numel()
    if bound.vectors is not None:
        return bound.vectors[:, :COORDINATES].to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    if bound.job.quantity in ("diagonal", "trace"):
        chosen = torch.randperm(count, generator=generator)[:COORDINATES]
        units = torch.zeros(count, len(chosen), dtype=torch.float64)
        units[chosen, torch.arange(len(chosen))] = 1.0
        return units
    vector = signs((count,), generator, torch.float64, CPU)
    if bound.job.quantity == "block_diagonal":
        return torch.block_diag(*(part[:, None] for part in vector.split(list(bound.problem.sizes))))
    return vector[:, None]
