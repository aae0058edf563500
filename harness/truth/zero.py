"""True values that are zero up to rounding: what the errors of a result are relative to then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.differences import scale
from harness.problems import Problem
from harness.truth.products import Products

EPS = torch.finfo(torch.float64).eps
SMALL = 1e-3  # of the natural size of a second derivative, below which its rounding is measured
ROUNDED = 100  # times its own rounding in float64, up to which a value is zero
CONDITION = 100  # times eps: relative rounding of a well-conditioned matrix, which the tolerances allow for
DIRECTIONS = 4  # in which rounding is measured


@dataclass(frozen=True)
class Scale:
    """How errors are judged where the true values are small."""

    zero: bool = False  # the true values that are compared are zero up to rounding
    size: float = 1.0  # what errors are relative to then: the size of what cancels
    slack: float = 1.0  # what the tolerance is multiplied by where rounding is amplified, and the values are not zero


def scale_of(
    problem: Problem, size: float, products_of: Callable[[Problem], Products] | None, error: float
) -> Scale:
    """The scale of errors for true values of Frobenius norm `size` (of the matrix, not of products).

    Second derivatives have a natural size, |gradient| / rms(theta) or |loss| / rms(theta)^2. Values far below it may be
    what remains where terms cancel. Their rounding in float64 is measured: by how much products with the matrix change
    when theta and the vectors move by four units in the last place (`products_of` gives the products at a point), or it
    is the `error` of central differences, where these are the reference. Values of no more than 100 times that are zero.
    The size of what cancels is then the rounding over float64's unit, or |gradient| / rms(theta) if that is larger; an
    error is right up to the dtype's tolerance of it. So a nearly linear loss keeps its small Hessian, which does not
    move, and is judged relative to it.
    """
    point = problem.theta.detach().requires_grad_()
    value = problem.loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    rms = scale(point)
    slope, height = float(gradient.norm()) / rms, abs(float(value.detach())) / rms**2
    if not size <= SMALL * max(slope, height):
        return Scale()
    rounding = error if products_of is None else _rounding(problem, products_of)
    if size <= ROUNDED * rounding:
        return Scale(True, max(slope, rounding / EPS, height if products_of is None else 0.0))
    return Scale(slack=max(1.0, rounding / (CONDITION * EPS * size)))


def _rounding(problem: Problem, products_of: Callable[[Problem], Products]) -> float:
    """Frobenius norm of the rounding of a matrix; of two opposite moves the lesser counts, as one may cross a kink."""
    generator = torch.Generator().manual_seed(0)
    theta = problem.theta.detach()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vectors, moves, turns = drawn(len(theta), DIRECTIONS), drawn(len(theta)), drawn(len(theta), DIRECTIONS)
    exact = products_of(problem)(vectors)
    changes = []
    for unit in (4 * EPS, -4 * EPS):
        moved = replace(problem, theta=theta + unit * scale(theta) * moves)
        changes.append((products_of(moved)(vectors * (1 + unit * turns)) - exact).square().sum(0))
    return float(torch.minimum(*changes).mean().sqrt()) / 4
