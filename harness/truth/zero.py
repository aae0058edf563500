"""True values that are zero up to rounding: what the errors of a result are relative to then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.differences import scale
from harness.problems import Problem
from harness.truth.products import Products

SMALL = 1e-3  # of the natural size of a second derivative, below which its rounding is measured
ROUNDED = 100  # times its own rounding in float64, up to which a value is zero
CONDITION = 100  # times float64's unit: relative rounding of a well-conditioned matrix, which the tolerances allow for
INVARIANT = 1e-10  # of |loss| / rms(theta): a gradient up to which the loss does not depend on its parameters
ALLOWED = 4  # times the rounding that was measured: what other orders of the same operations may come to
DIRECTIONS = 4  # in which rounding is measured
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

ProductsOf = Callable[[Problem], Products]  # products with the matrix at a problem's theta


@dataclass(frozen=True)
class Scale:
    """How errors are judged where the true values are small."""

    sizes: Mapping[torch.dtype, float] = field(default_factory=dict)  # what errors are relative to, for true zeros
    slack: float = 1.0  # what the tolerance is multiplied by where rounding is amplified, and the values are not zero

    @property
    def zero(self) -> bool:
        """Whether the true values that are compared are zero up to rounding."""
        return bool(self.sizes)

    def times(self, factor: float) -> Scale:
        """The scale for products with vectors of this norm."""
        return replace(self, sizes={dtype: size * factor for dtype, size in self.sizes.items()})


def scale_of(problem: Problem, size: float, products_of: ProductsOf | None, error: float) -> Scale:
    """The scale of errors for true values of Frobenius norm `size` (of the matrix, not of products).

    Second derivatives have a natural size, |gradient| / rms(theta) or |loss| / rms(theta)^2. Values far below it may be
    what remains where terms cancel. Their rounding in float64 is measured: by how much products with the matrix change
    when theta and the vectors move by four units in the last place (`products_of` gives the products at a point); or
    it is the `error` of central differences, where these are the reference. Values of up to 100 times that are zero.

    Errors are then relative to the largest of |gradient| / rms(theta), |loss| / rms(theta)^2 if the gradient is only
    rounding too (the loss is invariant), and what rounding makes of these zeros in the result's dtype, over its unit.
    A nearly linear loss has a small Hessian that does not move by rounding, and is judged relative to it.
    """
    point = problem.theta.detach().requires_grad_()
    value = problem.loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    rms = scale(point)
    slope, height = float(gradient.norm()) / rms, abs(float(value.detach())) / rms**2
    natural = slope if slope > INVARIANT * height else height
    if not size <= SMALL * max(slope, height):
        return Scale()
    rounding = error if products_of is None else _rounding(problem, products_of, torch.float64)
    if products_of is None:
        return Scale(dict.fromkeys(DTYPES, natural) if size <= ROUNDED * rounding else {})
    if size > ROUNDED * rounding:
        return Scale(slack=max(1.0, rounding / (CONDITION * torch.finfo(torch.float64).eps * size)))
    sizes, relative = {}, 0.0
    for dtype in DTYPES:
        with contextlib.suppress(RuntimeError, NotImplementedError):  # an operator may lack a dtype on the CPU
            relative = ALLOWED * _rounding(problem, products_of, dtype) / torch.finfo(dtype).eps
        sizes[dtype] = max(natural, relative)
    return Scale(sizes)


def _rounding(problem: Problem, products_of: ProductsOf, dtype: torch.dtype) -> float:
    """Frobenius norm of the rounding of the matrix in a dtype.

    Of two opposite moves the lesser change counts, as one of them may cross a kink.
    """
    generator = torch.Generator().manual_seed(0)
    cast = problem if dtype == torch.float64 else problem.to("cpu", dtype)
    theta, unit = cast.theta.detach(), 4 * torch.finfo(dtype).eps

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    vectors, moves, turns = drawn(len(theta), DIRECTIONS), drawn(len(theta)), drawn(len(theta), DIRECTIONS)
    exact = products_of(cast)(vectors)
    changes = []
    for step in (unit, -unit):
        moved = replace(cast, theta=theta + step * scale(theta) * moves)
        change = products_of(moved)(vectors * (1 + step * turns)) - exact
        changes.append(change.to(torch.float64).square().sum(0))
    return float(torch.minimum(*changes).mean().sqrt())
