"""What the errors of a result are relative to where the true values are zero up to rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.problems import Problem
from harness.truth.differences import rms_or_one
from harness.truth.products import Products

SMALL = 1e-3  # of the natural size of a second derivative, above which it is not zero whatever its rounding
ROUNDED = 100  # times its own rounding in float64, up to which a value is zero
# Relative rounding of a well-conditioned matrix over the dtype's unit; the tolerances allow for it.
CONDITION = 100
INVARIANT = 1e-10  # of |loss| / rms(theta): a gradient up to which the loss does not depend on its parameters
ALLOWED = 4  # times the measured rounding: what the same operations in another order may come to
DIRECTIONS = 4  # in which rounding is measured
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

ProductsOf = Callable[[Problem], Products]  # products with the matrix at a problem's theta


@dataclass(frozen=True)
class ErrorScale:
    """How errors are judged where the true values are small."""

    # By dtype: what errors are relative to where the true values are zero; empty where they are not.
    sizes: Mapping[torch.dtype, float] = field(default_factory=dict)
    # By dtype: what the tolerance is multiplied by where rounding is amplified, and the values are not zero.
    slack: Mapping[torch.dtype, float] = field(default_factory=dict)

    @property
    def zero(self) -> bool:
        """Whether the true values that are compared are zero up to rounding."""
        return bool(self.sizes)

    def slack_of(self, dtype: torch.dtype) -> float:
        """What the tolerance of results in this dtype is multiplied by; at least 1."""
        return self.slack.get(dtype, 1.0)

    def times(self, factor: float) -> ErrorScale:
        """The scale for products with vectors of this norm."""
        return replace(self, sizes={dtype: size * factor for dtype, size in self.sizes.items()})


def error_scale(problem: Problem, size: float, products_of: ProductsOf | None, error: float) -> ErrorScale:
    """The scale of errors for true values of Frobenius norm `size` (of the matrix, not of products).

    The rounding of the true values in float64 is measured: by how much products with the matrix change when theta and
    the vectors move by four units in the last place. `products_of` gives the products at a point. It is None where
    central differences are the reference; the rounding is then their `error`.

    Second derivatives have a natural size, |gradient| / rms(theta) or |loss| / rms(theta)^2. Values far below it that
    are up to 100 times their rounding are zero. Errors are then relative to the largest of

    - |gradient| / rms(theta);
    - |loss| / rms(theta)^2, if the gradient is only rounding too (the loss is invariant);
    - what rounding makes of these zeros in the result's dtype, over the dtype's unit.

    A nearly linear loss has a small Hessian that rounding does not move. Errors are relative to that Hessian.

    Where rounding is amplified but leaves something, the tolerance grows as measured in the result's own dtype.
    """
    point = problem.theta.detach().requires_grad_()
    value = problem.loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    rms = rms_or_one(point)
    slope = float(gradient.norm()) / rms
    height = abs(float(value.detach())) / rms**2
    natural = slope if slope > INVARIANT * height else height
    small = size <= SMALL * max(slope, height)
    if products_of is None:
        return ErrorScale(dict.fromkeys(DTYPES, natural) if small and size <= ROUNDED * error else {})
    rounding = _rounding(problem, products_of, torch.float64)
    if small and size <= ROUNDED * rounding:
        units = _units(problem, products_of)
        return ErrorScale({dtype: max(natural, ALLOWED * unit) for dtype, unit in units.items()})
    if not rounding > CONDITION * torch.finfo(torch.float64).eps * size:
        return ErrorScale()
    units = _units(problem, products_of)
    amplified = {dtype: unit for dtype, unit in units.items() if unit > CONDITION * size}
    return ErrorScale(slack={dtype: ALLOWED * unit / (CONDITION * size) for dtype, unit in amplified.items()})


def _units(problem: Problem, products_of: ProductsOf) -> dict[torch.dtype, float]:
    """The rounding of the matrix in each dtype over its unit.

    Where an operator lacks a dtype on the CPU, the number is that of the dtype before.
    """
    units, unit = {}, 0.0
    for dtype in DTYPES:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            unit = _rounding(problem, products_of, dtype) / torch.finfo(dtype).eps
        units[dtype] = unit
    return units


def _rounding(problem: Problem, products_of: ProductsOf, dtype: torch.dtype) -> float:
    """Frobenius norm of the rounding of the matrix in a dtype.

    Two points on the same side of theta are compared, since there may be a kink at theta itself, such as that of relu
    where inputs and biases are zero. The lesser change of both sides counts, since there may be a kink nearby.
    """
    generator = torch.Generator().manual_seed(0)
    cast = problem if dtype == torch.float64 else problem.to("cpu", dtype)
    theta, unit = cast.theta.detach(), 4 * torch.finfo(dtype).eps

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    vectors, moves, turns = drawn(len(theta), DIRECTIONS), drawn(len(theta)), drawn(len(theta), DIRECTIONS)

    def products_at(step: float) -> Tensor:
        at = replace(cast, theta=theta + step * rms_or_one(theta) * moves)
        return products_of(at)(vectors * (1 + step * turns)).to(torch.float64)

    changes = [(products_at(2 * step) - products_at(step)).square().sum(0) for step in (unit, -unit)]
    return float(torch.minimum(*changes).mean().sqrt())
