"""The truth that results are compared with, in float64 on the CPU.

It is the closed form, or products through autograd that central differences have confirmed. It is never
torch.func.hessian, which is wrong under LayerNorm. `harness.truth.gradient_check` asks whether autograd differentiates
the loss at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from harness.job import Measure
from harness.problems import Problem, ProblemError
from harness.truth import differences, per_sample, spectral
from harness.truth.detached_values import observe
from harness.truth.error_scale import ErrorScale, error_scale
from harness.truth.gradient_check import CheckedProblem, Departure, check_gradient
from harness.truth.products import Apply, Products, of_blocks, of_ggn, of_hessian, of_matrix, of_vectors
from harness.truth.true_values import true_values

DOUBTFUL = 1e-6  # distance from central differences beyond which a reference is doubted
UNITS = 1e4  # the same in units of the precision within the loss, where this is coarser than float64
LOOSEST = 1e-2  # error of central differences up to which they are the reference themselves
STEPS = (1e-3, 1e-4, 1e-5)  # of central differences, times the root mean square of what is stepped from
CHECKED = 4  # directions in which the reference is checked
LARGE = 10**6  # parameters beyond which it is checked in one direction


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
    scale: ErrorScale = field(default_factory=ErrorScale)  # what errors are relative to where the truth is zero
    inner_dtype: torch.dtype | None = None  # the coarsest precision within the loss in float64, if below
    inner_of_float32: torch.dtype | None = None  # the same of the loss in float32, which autocast treats differently
    departure: Departure | None = None  # of the gradient from the slope of the loss
    answer: spectral.Answer | None = None  # for eigenvalues, trace, spectrum and ihvp, which follow from the matrix
    per_sample: bool = False  # whether R is that of each sample (`harness.truth.per_sample` says what the fields hold)
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

    def size_of_errors(self, dtype: torch.dtype) -> float | None:
        """What errors in this dtype are relative to; None where it is the norm of the true values."""
        size = self.scale.sizes.get(dtype)
        return self.answer.size if size is None and self.answer is not None and self.answer.terms else size

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
    k: int = 10,
    damping: float = 0.01,
) -> Reference:
    """The reference for a problem on the CPU in float64: the GGN for quantity=ggn, else the Hessian.

    `vectors` is (P, m) for an hvp or ihvp, else None. Up to `measure.full_up_to` parameters every column is computed.
    Beyond:

    - for a matrix `measure.rows` random columns, but at least two of every parameter tensor, and the products with
      `measure.probes` Gaussian directions, which see every entry;
    - for blocks the same columns, and such directions of each block;
    - for a diagonal every entry, or as many, in random order, as can be computed in ten seconds;
    - for the `k` eigenvalues, a trace, a spectrum, and products with the inverse of H + `damping` I, what
      `harness.truth.spectral` says.

    Of each sample's own derivatives, `harness.truth.per_sample` says what is computed.

    Central differences confirm autograd's products, or the closed form. Where they disagree and do not depend on the
    step, autograd or the closed form is wrong, and central differences are the reference. Where they depend on the
    step, as at a kink, they say nothing, and the reference stays unconfirmed. With `measure.truth=differences` every
    column of a Hessian comes from central differences alone (`harness.truth.differences`).

    `stop_gradient` is the user's statement on the parts of the loss that have left the graph: they are constant (True),
    or not (False).

    Raises ProblemError where `measure.truth=differences` would take too long, and where `harness.truth.spectral` has no
    answer.
    """
    params = problem.theta.numel()
    spectral.require_computable(quantity, params, k, measure)
    by_differences = measure.truth == "differences" and quantity != "ggn"
    if by_differences and params > measure.full_up_to:
        raise ProblemError(
            f"measure.truth=differences takes about ten gradients a parameter, and there are {params}; take a smaller "
            f"problem, measure.truth=autograd, or raise measure.full_up_to={measure.full_up_to}"
        )
    checked = check_gradient(problem, stop_gradient)
    generator = torch.Generator().manual_seed(seed)
    kind, error, products = _true_products(checked, by_differences, quantity, generator)
    asked = vectors, measure, generator, quantity
    if problem.points is None:
        known = true_values(products, problem.sizes, *asked)
    else:
        count, size = problem.points.shape
        known = per_sample.true_values(products, (count, size), *asked)
    truth = Reference(
        kind,
        error,
        **known,
        inner_dtype=checked.observed.inner_dtype,
        inner_of_float32=_inner_of_float32(problem),
        departure=checked.departure,
        per_sample=problem.points is not None,
        trusted=checked.trusted,
    )
    truth = _scaled(truth, checked, products, quantity)
    if truth.per_sample or quantity not in spectral.QUANTITIES:
        return truth
    # The scale is that of the matrix, not of its products with the directions; a trace adds up P entries.
    scale = truth.scale.times((math.sqrt(params) if quantity == "trace" else 1.0) / _weight(truth, params))
    truth = replace(truth, scale=scale)
    return replace(truth, answer=_answer(truth, products, quantity, vectors, measure, k, damping))


def _answer(
    truth: Reference,
    products: Products,
    quantity: str,
    vectors: Tensor | None,
    measure: Measure,
    k: int,
    damping: float,
) -> spectral.Answer:
    """The answer to a question about the true matrix."""
    params = len(truth.values)
    if truth.diagonal is not None:
        assert truth.row_sizes is not None
        return spectral.trace_of(truth.diagonal, truth.row_sizes, params, measure)
    rounding = truth.scale.sizes.get(torch.float64, 0.0)
    if len(truth.columns) == params:
        return spectral.of_matrix(truth.values, quantity, k, vectors, damping, rounding)
    if truth.scale.zero:
        return spectral.of_zeros(quantity, k, vectors, damping, rounding)
    return spectral.of_products(products, quantity, k, vectors, damping)


def _true_products(
    checked: CheckedProblem, by_differences: bool, quantity: str, generator: torch.Generator
) -> tuple[str, float, Products]:
    """The kind of the reference, its distance from central differences, and its products."""
    problem, params = checked.problem, checked.problem.theta.numel()
    gradient_is_wrong = checked.departure is not None and not checked.departure.right
    if gradient_is_wrong:
        by_differences = params <= differences.PAIRS_UP_TO
    if by_differences and quantity != "ggn" and not checked.trusted:
        values, error = differences.hessian(problem.loss, problem.theta)
        return "central_differences", error, of_matrix(values)
    kind = "double_backward"
    products, by_steps = _by_autograd(checked, quantity)
    if problem.hessian is not None and quantity != "ggn":
        closed_form = problem.hessian().to(torch.float64)
        kind, products = "closed_form", of_matrix(closed_form) if closed_form.dim() == 2 else of_blocks(closed_form)
    found = _confirmation(products.one, by_steps, params, generator)
    is_wrong = found.error > _doubtful(checked.observed.inner_dtype) > found.spread
    if is_wrong and not checked.trusted and not gradient_is_wrong:
        return "central_differences", found.spread, of_vectors(by_steps(found.step), params)
    return kind, found.error, products


def _doubtful(inner_dtype: torch.dtype | None) -> float:
    """The distance from central differences beyond which a reference is doubted."""
    return DOUBTFUL if inner_dtype is None else max(DOUBTFUL, UNITS * torch.finfo(inner_dtype).eps)


def _inner_of_float32(problem: Problem) -> torch.dtype | None:
    single = problem.to("cpu", torch.float32)
    return observe(single.loss, single.theta).inner_dtype


def _by_autograd(checked: CheckedProblem, quantity: str) -> tuple[Products, Callable[[float], Apply]]:
    return of_ggn(checked.problem, checked.held) if quantity == "ggn" else of_hessian(checked.problem)


def _scaled(truth: Reference, checked: CheckedProblem, products: Products, quantity: str) -> Reference:
    """The reference with its scale, and with zeros in place of values that are zero up to rounding."""
    params = products.params
    if params > LARGE:
        return truth
    weight = _weight(truth, params)
    probes = torch.randn(params, CHECKED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = truth.error * (float(products(probes).norm()) / math.sqrt(CHECKED) or 1.0)  # of the whole matrix, absolute

    def products_of(at: Problem) -> Products:
        return _by_autograd(replace(checked, problem=at), quantity)[0]

    size = float(truth.compared.norm()) / weight
    differenced = truth.kind == "central_differences"
    scale = error_scale(checked.problem, size, None if differenced else products_of, error).times(weight)
    if not scale.zero:
        return replace(truth, scale=scale)
    error = min(truth.error, error / (scale.sizes[torch.float64] or 1.0))
    return replace(_zeros(truth), scale=scale, error=error)


def _weight(truth: Reference, params: int) -> float:
    """The norm of the products over that of the matrix, which the directions decide; 1 where there are none."""
    drawn = [directions for directions, _ in truth.blocks or ()]
    if truth.directions is not None:
        drawn = [truth.directions]
    if not drawn:
        return 1.0
    return math.sqrt(sum(float(directions.square().sum()) for directions in drawn) / params) or 1.0


def _zeros(truth: Reference) -> Reference:
    """The reference with zeros in place of its true values."""
    blocks = truth.blocks
    if blocks is not None:
        blocks = tuple((directions, torch.zeros_like(products)) for directions, products in blocks)
    return replace(
        truth,
        values=torch.zeros_like(truth.values),
        products=None if truth.products is None else torch.zeros_like(truth.products),
        diagonal=None if truth.diagonal is None else torch.zeros_like(truth.diagonal),
        blocks=blocks,
    )


class _Confirmation(NamedTuple):
    """How central differences compare with some products, and among themselves."""

    error: float  # relative distance of the products from the nearest central differences
    spread: float  # least relative distance between central differences of two steps
    step: float  # the finer of these two steps


def _confirmation(
    apply: Apply, by_steps: Callable[[float], Apply], params: int, generator: torch.Generator
) -> _Confirmation:
    """Compare `apply` with central differences in random directions."""
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
            # The spread is relative to the differences themselves, since `exact` may be what is wrong.
            spreads[index] += float((fine - coarse).square().sum() / (coarse.square().sum() or 1.0))
    error = min(map(_nan_last, errors))
    spread, step = min((_nan_last(spread), step) for spread, step in zip(spreads, STEPS[1:], strict=True))
    return _Confirmation(math.sqrt(error / (size or 1.0)), math.sqrt(spread / count), step)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
