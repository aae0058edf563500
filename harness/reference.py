"""The truth that results are compared with, in float64 on the CPU.

The closed form, or products through autograd that central differences have confirmed; never torch.func.hessian, which
is wrong under LayerNorm. Whether autograd differentiates the loss at all is `harness.truth.slope`'s question.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness import differences
from harness.job import Measure
from harness.problems import Problem, ProblemError
from harness.truth.leaving import watch
from harness.truth.products import CHUNK, Apply, Products, of_ggn, of_hessian, of_matrix, of_vectors
from harness.truth.slope import Departure, Settled, settle
from harness.truth.zero import Scale, scale_of

DOUBTFUL = 1e-6  # a reference farther than this from central differences is doubted
UNITS = 1e4  # the same in units of the precision within the loss, where this is coarser than float64
LOOSEST = 1e-2  # of central differences that are the reference themselves
STEPS = (1e-3, 1e-4, 1e-5)  # of central differences, times the root mean square of what is stepped from
CHECKED = 4  # directions in which the reference is checked
LARGE = 10**6  # parameters from which on it is checked in one
DIAGONAL_S = 10.0  # time in which the entries of a long diagonal are computed, in random order


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
    blocks: tuple[tuple[Tensor, Tensor], ...] | None = None  # for quantity=block_diagonal: directions, products (size, k)
    scale: Scale = Scale()  # what errors are relative to where the truth is zero
    inner_dtype: torch.dtype | None = None  # the coarsest precision within the loss in float64, if below
    inner_of_float32: torch.dtype | None = None  # the same of the loss in float32, which autocast treats differently
    departure: Departure | None = None  # of the gradient from the slope of the loss

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
    def doubt(self) -> float:
        """The `error` up to which the reference is confirmed."""
        units = 0.0 if self.inner_dtype is None else UNITS * torch.finfo(self.inner_dtype).eps
        limit = max(DOUBTFUL, units)
        return min(limit, LOOSEST) if self.kind == "central_differences" else limit

    @property
    def confirmed(self) -> bool:
        """Whether central differences confirm the reference, or are it."""
        return self.error <= self.doubt


def reference(
    problem: Problem,
    vectors: Tensor | None,
    measure: Measure,
    seed: int,
    quantity: str = "hessian",
    stop_gradient: bool | None = None,
) -> Reference:
    """The reference for a problem on the CPU in float64: the GGN for quantity=ggn, else the Hessian.

    `vectors` (P, k) for an hvp, else None. Up to `measure.full_up_to` parameters every column is computed. Above, for a
    matrix `measure.rows` random ones, but two of every parameter tensor at least, and the products with `measure.probes`
    Gaussian directions, which see every entry; for blocks such directions of each block; for a diagonal every entry, or
    as many as there is time for. Where autograd's products disagree with central differences that do not depend on the
    step, autograd itself is wrong (or the closed form), and central differences are taken. Where those do depend on the
    step, as at a kink, they say nothing, and the reference stays, unconfirmed. With `measure.truth=differences` every
    column of a Hessian is from central differences alone (`harness.differences`).

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
    known = _known(products, problem.sizes, vectors, measure, generator, quantity)
    inner = {"inner_dtype": settled.seen.inner_dtype, "inner_of_float32": _inner_of_float32(problem)}
    truth = Reference(kind, error, **known, **inner, departure=settled.departure)
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
    doubt = DOUBTFUL if settled.seen.inner_dtype is None else UNITS * torch.finfo(settled.seen.inner_dtype).eps
    if error > doubt > spread and not settled.trusted and not gradient_is_wrong:
        return "central_differences", spread, of_vectors(by_steps(step), params)
    return kind, error, products


def _inner_of_float32(problem: Problem) -> torch.dtype | None:
    single = problem.to("cpu", torch.float32)
    return watch(single.loss, single.theta).inner_dtype


def _by_autograd(settled: Settled, quantity: str) -> tuple[Products, Callable[[float], Apply]]:
    return of_ggn(settled.problem, settled.held) if quantity == "ggn" else of_hessian(settled.problem)


def _known(
    products: Products,
    sizes: Sequence[int],
    vectors: Tensor | None,
    measure: Measure,
    generator: torch.Generator,
    quantity: str,
) -> dict[str, Any]:
    """The fields of a Reference that hold true values."""
    everything, nothing = torch.arange(products.params), torch.arange(0)
    if vectors is not None:
        values = products.columns(nothing)
        return {"columns": nothing, "values": values, "directions": vectors, "products": products(vectors)}
    small = products.params <= measure.full_up_to
    columns = everything if small else _spread(sizes, measure.rows, generator)
    if quantity == "diagonal":
        return _diagonal(products, columns, generator)
    values = products.columns(columns)
    known: dict[str, Any] = {"columns": columns, "values": values}
    if quantity == "block_diagonal":
        return known | {"blocks": tuple(_of_blocks(products, sizes, None if small else measure.probes, generator))}
    if small:
        return known
    directions = torch.randn(products.params, measure.probes, generator=generator, dtype=torch.float64)
    return known | {"directions": directions, "products": products(directions)}


def _diagonal(products: Products, columns: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """These entries of the diagonal, and as many others in random order as ten seconds allow: all of them, mostly."""
    others = torch.ones(products.params, dtype=torch.bool).index_fill_(0, columns, False).nonzero()[:, 0]
    order = torch.cat([columns, others[torch.randperm(len(others), generator=generator)]])
    entries, row_sizes, began = [], [], time.monotonic()
    for some in order.split(CHUNK):
        if sum(map(len, entries)) >= len(columns) and time.monotonic() - began > DIAGONAL_S:
            break
        values = products.columns(some)
        entries.append(values[some, torch.arange(len(some))])
        row_sizes.append(values.abs().amax(0))
    diagonal = torch.cat(entries)
    return {"columns": order[: len(diagonal)], "values": products.columns(torch.arange(0)), "diagonal": diagonal,
            "row_sizes": torch.cat(row_sizes)}  # fmt: skip


def _of_blocks(
    products: Products, sizes: Sequence[int], count: int | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each block, directions (size, k) and their products with it: Gaussian ones, or the unit vectors for no count.

    Both see every entry of the block.
    """
    start = 0
    for size in sizes:
        directions = torch.eye(size, dtype=torch.float64)
        if count is not None:
            directions = torch.randn(size, count, generator=generator, dtype=torch.float64)
        whole = torch.zeros(products.params, directions.shape[1], dtype=torch.float64)
        whole[start : start + size] = directions
        yield directions, products(whole)[start : start + size]
        start += size


def _scaled(truth: Reference, settled: Settled, products: Products, quantity: str) -> Reference:
    """The reference with its scale; with zeros in place of values that are zero up to rounding."""
    params = products.params
    if params > LARGE:
        return truth
    directions = [directions for directions, _ in truth.blocks or ()] if truth.directions is None else [truth.directions]
    weight = math.sqrt(sum(float(some.square().sum()) for some in directions) / params) if directions else 1.0
    size = float(truth.compared.norm()) / (weight or 1.0)
    if truth.kind == "central_differences":
        probes = torch.randn(params, CHECKED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        error = truth.error * float(products(probes).norm()) / math.sqrt(CHECKED)
        scale = scale_of(settled.problem, size, None, error)
    else:
        scale = scale_of(settled.problem, size, lambda at: _by_autograd(replace(settled, problem=at), quantity)[0], 0.0)
    scale = replace(scale, size=scale.size * (weight or 1.0))
    if not scale.zero:
        return replace(truth, scale=scale)
    zeros = {name: None if (known := getattr(truth, name)) is None else torch.zeros_like(known)
             for name in ("values", "products", "diagonal")}  # fmt: skip
    blocks = None if truth.blocks is None else tuple((some, torch.zeros_like(known)) for some, known in truth.blocks)
    return replace(truth, **zeros, blocks=blocks, scale=scale)


def _spread(sizes: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """About `count` indices of parameters, sorted: two of every tensor, so that none goes unseen; the rest anywhere."""
    params = sum(sizes)
    starts = itertools.accumulate(sizes, initial=0)
    own = [start + torch.randperm(size, generator=generator)[:2] for start, size in zip(starts, sizes, strict=False)]
    anywhere = torch.randperm(params, generator=generator)[: max(0, count - 2 * len(sizes))]
    return torch.cat([*own, anywhere]).unique()


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
