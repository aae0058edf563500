"""True values that are zero up to rounding: what the errors of a result are relative to then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.problems import Problem
from harness.truth.differences import scale
from harness.truth.products import Products

SMALL = 1e-3  # of the natural size of a second derivative, above which it is not zero whatever its rounding
ROUNDED = 100  # times its own rounding in float64, up to which a value is zero
CONDITION = (
    100  # times the dtype's unit: relative rounding of a well-conditioned matrix, which the tolerances allow for
)
INVARIANT = 1e-10  # of |loss| / rms(theta): a gradient up to which the loss does not depend on its parameters
ALLOWED = 4  # times the rounding that was measured: what other orders of the same operations may come to
DIRECTIONS = 4  # in which rounding is measured
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

ProductsOf = Callable[[Problem], Products]  # products with the matrix at a problem's theta


@dataclass(frozen=True)
class Scale:
    """How errors are judged where the true values are small."""

    sizes: Mapping[torch.dtype, float] = field(default_factory=dict)  # what errors are relative to, for true zeros
    # What the tolerance of a dtype is multiplied by where rounding is amplified in it, and the values are not zero.
    slack: Mapping[torch.dtype, float] = field(default_factory=dict)

    @property
    def zero(self) -> bool:
        """Whether the true values that are compared are zero up to rounding."""
        return bool(self.sizes)

    def slack_of(self, dtype: torch.dtype) -> float:
        """What the tolerance of results in this dtype is multiplied by; at least 1."""
        return self.slack.get(dtype, 1.0)

    def times(self, factor: float) -> Scale:
        """The scale for products with vectors of this norm."""
        return replace(self, sizes={dtype: size * factor for dtype, size in self.sizes.items()})


def scale_of(problem: Problem, size: float, products_of: ProductsOf | None, error: float) -> Scale:
    """The scale of errors for true values of Frobenius norm `size` (of the matrix, not of products).

    The rounding of the true values in float64 is measured: by how much products with the matrix change when theta and
    the vectors move by four units in the last place (`products_of` gives the products at a point); or it is the `error`
    of central differences, where these are the reference. Second derivatives have a natural size, |gradient| /
    rms(theta) or |loss| / rms(theta)^2. Values far below it that are up to 100 times their rounding are zero.

    Errors are then relative to the largest of |gradient| / rms(theta), |loss| / rms(theta)^2 if the gradient is only
    rounding too (the loss is invariant), and what rounding makes of these zeros in the result's dtype, over its unit.
    A nearly linear loss has a small Hessian that does not move by rounding, and is judged relative to it.

    Where rounding is amplified but leaves something, the tolerance grows as measured in the result's own dtype.
    """
    point = problem.theta.detach().requires_grad_()
    value = problem.loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    rms = scale(point)
    slope, height = float(gradient.norm()) / rms, abs(float(value.detach())) / rms**2
    natural = slope if slope > INVARIANT * height else height
    small = size <= SMALL * max(slope, height)
    if products_of is None:
        return Scale(dict.fromkeys(DTYPES, natural) if small and size <= ROUNDED * error else {})
    rounding = _rounding(problem, products_of, torch.float64)
    if small and size <= ROUNDED * rounding:
        units = _units(problem, products_of)
        return Scale({dtype: max(natural, ALLOWED * unit) for dtype, unit in units.items()})
    if not rounding > CONDITION * torch.finfo(torch.float64).eps * size:
        return Scale()
    units = _units(problem, products_of)
    amplified = {dtype: unit for dtype, unit in units.items() if unit > CONDITION * size}
    return Scale(slack={dtype: ALLOWED * unit / (CONDITION * size) for dtype, unit in amplified.items()})


def _units(problem: Problem, products_of: ProductsOf) -> dict[torch.dtype, float]:
    """The rounding of the matrix in each dtype over its unit; of the dtype before where an operator lacks it."""
    units, unit = {}, 0.0
    for dtype in DTYPES:
        with contextlib.suppress(RuntimeError, NotImplementedError):  # on the CPU
            unit = _rounding(problem, products_of, dtype) / torch.finfo(dtype).eps
        units[dtype] = unit
    return units


def _rounding(problem: Problem, products_of: ProductsOf, dtype: torch.dtype) -> float:
    """Frobenius norm of the rounding of the matrix in a dtype.

    Points on one side of theta are compared, as there may be a kink at theta itself, as of relu where inputs and biases
    are zero. Of the two sides the lesser change counts: there may be a kink nearby.
    """
    generator = torch.Generator().manual_seed(0)
    cast = problem if dtype == torch.float64 else problem.to("cpu", dtype)
    theta, unit = cast.theta.detach(), 4 * torch.finfo(dtype).eps

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    vectors, moves, turns = drawn(len(theta), DIRECTIONS), drawn(len(theta)), drawn(len(theta), DIRECTIONS)

    def moved(step: float) -> Tensor:
        at = replace(cast, theta=theta + step * scale(theta) * moves)
        return products_of(at)(vectors * (1 + step * turns)).to(torch.float64)

    changes = [(moved(2 * step) - moved(step)).square().sum(0) for step in (unit, -unit)]
    return float(torch.minimum(*changes).mean().sqrt())
