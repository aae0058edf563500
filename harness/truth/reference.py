"""The truth that results are compared with, in float64 on the CPU.

The closed form, or products through autograd that central differences have confirmed; never torch.func.hessian, which
is wrong under LayerNorm. Whether autograd differentiates the loss at all is `harness.truth.slope`'s question.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.job import Measure
from harness.problems import Problem, ProblemError
from harness.truth import differences
from harness.truth.known import known_values
from harness.truth.leaving import watch
from harness.truth.products import Apply, Products, of_ggn, of_hessian, of_matrix, of_vectors
from harness.truth.slope import Departure, Settled, settle
from harness.truth.zero import Scale, scale_of

DOUBTFUL = 1e-6  # a reference farther than this from central differences is doubted
UNITS = 1e4  # the same in units of the precision within the loss, where this is coarser than float64
LOOSEST = 1e-2  # of central differences that are the reference themselves
STEPS = (1e-3, 1e-4, 1e-5)  # of central differences, times the root mean square of what is stepped from
CHECKED = 4  # directions in which the reference is checked
LARGE = 10**6  # parameters from which on it is checked in one


@dataclass(frozen=True)
class Reference:
    """The true matrix R (a Hessian, or a GGN), whole or through its products."""

    kind: str  # closed_form, double_backward or central_differences
    error: float  # relative distance of R from central differences, in a few directions
    columns: Tensor  # (c,) indices of the columns that are known; all of them for a small problem
    values: Tensor  # (P, c) those columns; (P, 0) for a diagonal
    directions: Tensor | None = None  # (P, k) Gaussian, or the vectors of an hvp; None where all columns are known
    products: Tensor | None = None  # (P, k) R times directions
    diagonal: Tensor | None = None  # (c,) for quantity=diagonal: the entries of `columns`
    row_sizes: Tensor | None = None  # (c,) for quantity=diagonal: the largest entries of these rows of R
    blocks: tuple[tuple[Tensor, Tensor], ...] | None = None  # for block_diagonal: directions, products (size, k)
    scale: Scale = field(default_factory=Scale)  # what errors are relative to where the truth is zero
    inner_dtype: torch.dtype | None = None  # the coarsest precision within the loss in float64, if below
    inner_of_float32: torch.dtype | None = None  # the same of the loss in float32, which autocast treats differently
    departure: Departure | None = None  # of the gradient from the slope of the loss
    trusted: bool = False  # autograd is the truth whatever differences say: a gradient that is not the slope is meant

    @property
    def compared(self) -> Tensor:
        """The true values that a result's are compared with."""
        if self.blocks is not None:
            return torch.cat([products.flatten() for _, products in self.blocks])
        return next(known for known in (self.products, self.diagonal, self.values) if known is not None)

    def inner(self, dtype: torch.dtype) -> torch.dtype | None:
        """The coarsest precision within the loss for parameters of this dtype, if below it."""
        return self.inner_dtype if dtype == torch.float64 else self.inner_of_float32

    @property
    def confirmed(self) -> bool:
        """Whether central differences confirm the reference, or are it."""
        limit = _doubtful(self.inner_dtype)
        return self.error <= (min(limit, LOOSEST) if self.kind == "central_differences" else limit)


def reference(
    problem: Problem,
    vectors: Tensor | None,
    measure: Measure,
    seed: int,
    quantity: str = "hessian",
    stop_gradient: bool | None = None,
) -> Reference:
    """The reference for a problem on the CPU in float64: the GGN for quantity=ggn, else the Hessian.

    `vectors` (P, k) for an hvp, else None. Up to `measure.full_up_to` parameters every column is computed. Above:
    - for a matrix `measure.rows` random columns, but two of every parameter tensor at least, and the products with
      `measure.probes` Gaussian directions, which see every entry;
    - for blocks the same columns, and such directions of each block;
    - for a diagonal every entry, or as many, in random order, as can be had in ten seconds.

    Where autograd's products disagree with central differences that do not depend on the step, autograd itself is wrong
    (or the closed form), and central differences are taken. Where those do depend on the step, as at a kink, they say
    nothing, and the reference stays, unconfirmed. With `measure.truth=differences` every column of a Hessian is from
    central differences alone (`harness.truth.differences`).

    `stop_gradient` is what the user states of the parts that left the graph: constant (True), or not (False).
    """
    params = problem.theta.numel()
    by_differences = measure.truth == "differences" and quantity != "ggn"
    if by_differences and params > measure.full_up_to:
        raise ProblemError(
            f"measure.truth=differences takes about ten gradients a parameter, and there are {params}; take a smaller "
            f"problem, measure.truth=autograd, or raise measure.full_up_to={measure.full_up_to}"
        )
    settled = settle(problem, stop_gradient)
    generator = torch.Generator().manual_seed(seed)
    kind, error, products = _truth(settled, by_differences, quantity, generator)
    known = known_values(products, problem.sizes, vectors, measure, generator, quantity)
    truth = Reference(
        kind,
        error,
        **known,
        inner_dtype=settled.seen.inner_dtype,
        inner_of_float32=_inner_of_float32(problem),
        departure=settled.departure,
        trusted=settled.trusted,
    )
    return _scaled(truth, settled, products, quantity)


def _truth(
    settled: Settled, by_differences: bool, quantity: str, generator: torch.Generator
) -> tuple[str, float, Products]:
    """The kind of the reference, its distance from central differences, and its products."""
    problem, params = settled.problem, settled.problem.theta.numel()
    gradient_is_wrong = settled.departure is not None and not settled.departure.right
    if gradient_is_wrong:
        by_differences = params <= differences.PAIRS_UP_TO
    if by_differences and quantity != "ggn" and not settled.trusted:
        values, error = differences.hessian(problem.loss, problem.theta)
        return "central_differences", error, of_matrix(values)
    kind, (products, by_steps) = "double_backward", _by_autograd(settled, quantity)
    if problem.hessian is not None and quantity != "ggn":
        kind, products = "closed_form", of_matrix(problem.hessian().to(torch.float64))
    error, spread, step = _checked(products.one, by_steps, params, generator)
    if error > _doubtful(settled.seen.inner_dtype) > spread and not settled.trusted and not gradient_is_wrong:
        return "central_differences", spread, of_vectors(by_steps(step), params)
    return kind, error, products


def _doubtful(inner_dtype: torch.dtype | None) -> float:
    """The distance from central differences from which on a reference is doubted."""
    return DOUBTFUL if inner_dtype is None else max(DOUBTFUL, UNITS * torch.finfo(inner_dtype).eps)


def _inner_of_float32(problem: Problem) -> torch.dtype | None:
    single = problem.to("cpu", torch.float32)
    return watch(single.loss, single.theta).inner_dtype


def _by_autograd(settled: Settled, quantity: str) -> tuple[Products, Callable[[float], Apply]]:
    return of_ggn(settled.problem, settled.held) if quantity == "ggn" else of_hessian(settled.problem)


def _scaled(truth: Reference, settled: Settled, products: Products, quantity: str) -> Reference:
    """The reference with its scale; with zeros in place of values that are zero up to rounding."""
    params = products.params
    if params > LARGE:
        return truth
    drawn = [some for some, _ in truth.blocks or ()] if truth.directions is None else [truth.directions]
    weight = math.sqrt(sum(float(some.square().sum()) for some in drawn) / params) if drawn else 1.0
    probes = torch.randn(params, CHECKED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = truth.error * (float(products(probes).norm()) / math.sqrt(CHECKED) or 1.0)  # of the whole matrix, absolute
    differenced = truth.kind == "central_differences"
    products_of = None if differenced else lambda at: _by_autograd(replace(settled, problem=at), quantity)[0]
    scale = scale_of(settled.problem, float(truth.compared.norm()) / (weight or 1.0), products_of, error)
    scale = scale.times(weight or 1.0)
    if not scale.zero:
        return replace(truth, scale=scale)
    zeros = {
        name: None if (known := getattr(truth, name)) is None else torch.zeros_like(known)
        for name in ("values", "products", "diagonal")
    }
    blocks = None if truth.blocks is None else tuple((some, torch.zeros_like(known)) for some, known in truth.blocks)
    error = min(truth.error, error / (scale.sizes[torch.float64] or 1.0))
    return replace(truth, **zeros, blocks=blocks, scale=scale, error=error)


def _checked(
    apply: Apply, by_steps: Callable[[float], Apply], params: int, generator: torch.Generator
) -> tuple[float, float, float]:
    """Distance of `apply` from the nearest central differences; the least spread between two steps; its finer step."""
    errors, spreads, size = [0.0] * len(STEPS), [0.0] * (len(STEPS) - 1), 0.0
    count = CHECKED if params <= LARGE else 1
    for _ in range(count):
        direction = torch.randn(params, generator=generator, dtype=torch.float64)
        exact = apply(direction)
        estimates = [by_steps(step)(direction) for step in STEPS]
        size += float(exact.square().sum())
        for index, estimate in enumerate(estimates):
            errors[index] += float((estimate - exact).square().sum())
        for index, (coarse, fine) in enumerate(itertools.pairwise(estimates)):
            # Judged against the differences themselves: `exact` may be what is wrong.
            spreads[index] += float((fine - coarse).square().sum() / (coarse.square().sum() or 1.0))
    error = min(map(_nan_last, errors))
    spread, step = min((_nan_last(spread), step) for spread, step in zip(spreads, STEPS[1:], strict=True))
    return math.sqrt(error / (size or 1.0)), math.sqrt(spread / count), step


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
