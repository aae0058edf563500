"""The truth that results are compared with, in float64 on the CPU.

The closed form, or products through autograd that central differences have confirmed; never torch.func.hessian, which
is wrong under LayerNorm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.differences import hessian as hessian_by_differences
from harness.job import Measure
from harness.problems import Problem
from harness.problems.problem import ProblemError

DOUBTFUL = 1e-6  # a reference farther than this from central differences is doubted
STEPS = (1e-3, 1e-4, 1e-5)  # of central differences, times the root mean square of what is stepped from
CHECKED = 4  # directions in which the reference is checked
LARGE = 10**6  # parameters from which on it is checked in one

Apply = Callable[[Tensor], Tensor]  # v -> R v, (P,) -> (P,)


@dataclass(frozen=True)
class Reference:
    """The true matrix R (a Hessian, or a GGN), whole or through its products."""

    kind: str  # closed_form, double_backward or central_differences
    error: float  # relative distance of R from central differences, in a few directions
    columns: Tensor  # (c,) indices of the columns that are known; all of them for a small problem
    values: Tensor  # (P, c) those columns
    directions: Tensor | None  # (P, k) Gaussian, or the vectors of an hvp; None where all columns are known
    products: Tensor | None  # (P, k) R times directions


def reference(
    problem: Problem, vectors: Tensor | None, measure: Measure, seed: int, quantity: str = "hessian"
) -> Reference:
    """The reference for a problem on the CPU in float64: the GGN for quantity=ggn, else the Hessian.

    `vectors` (P, k) for an hvp, else None. Up to `measure.full_up_to` parameters every column is computed; above,
    `measure.rows` random ones, but two of every parameter tensor at least, and the products with `measure.probes`
    Gaussian directions. Where they disagree with central differences that do not depend on the step, autograd itself is
    wrong (or the closed form), and central differences are taken. Where those do depend on the step, as at a kink, they
    say nothing, and the reference stays, unconfirmed. With `measure.truth=differences` every column of a Hessian is
    from central differences alone (`harness.differences`).
    """
    params = problem.theta.numel()
    if measure.truth == "differences" and quantity != "ggn":
        if params > measure.full_up_to:
            raise ProblemError(
                f"measure.truth=differences takes about ten gradients a parameter, and there are {params}; take a "
                f"smaller problem, measure.truth=autograd, or raise measure.full_up_to={measure.full_up_to}"
            )
        values, error = hessian_by_differences(problem.loss, problem.theta)
        products = None if vectors is None else values @ vectors
        return Reference("central_differences", error, torch.arange(params), values, vectors, products)
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(0) if vectors is not None else torch.arange(params)
    directions = vectors
    if vectors is None and params > measure.full_up_to:
        columns = _spread(problem.sizes, measure.rows, generator)
        directions = torch.randn(params, measure.probes, generator=generator, dtype=torch.float64)

    kind, apply, differences = "double_backward", *(_ggn(problem) if quantity == "ggn" else _hessian(problem))
    if problem.hessian is not None and quantity != "ggn":
        kind, apply = "closed_form", problem.hessian().to(torch.float64).mv
    error, spread, step = _checked(apply, differences, params, generator)
    if error > DOUBTFUL > spread:
        kind, error, apply = "central_differences", spread, differences(step)
    values = torch.zeros(params, len(columns), dtype=torch.float64)
    for place, column in enumerate(columns):
        values[:, place] = apply(torch.zeros(params, dtype=torch.float64).index_fill_(0, column, 1.0))
    products = None if directions is None else torch.stack([apply(v) for v in directions.unbind(1)], dim=1)
    return Reference(kind, error, columns, values, directions, products)


def _spread(sizes: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    """About `count` indices of parameters, sorted: two of every tensor, so that none goes unseen; the rest anywhere."""
    params = sum(sizes)
    starts = itertools.accumulate(sizes, initial=0)
    own = [start + torch.randperm(size, generator=generator)[:2] for start, size in zip(starts, sizes, strict=False)]
    anywhere = torch.randperm(params, generator=generator)[: max(0, count - 2 * len(sizes))]
    return torch.cat([*own, anywhere]).unique()


def _checked(
    apply: Apply, differences: Callable[[float], Apply], params: int, generator: torch.Generator
) -> tuple[float, float, float]:
    """Distance of `apply` from the nearest central differences; the least spread between two steps; its finer step."""
    errors, spreads, size = [0.0] * len(STEPS), [0.0] * (len(STEPS) - 1), 0.0
    count = CHECKED if params <= LARGE else 1
    for _ in range(count):
        direction = torch.randn(params, generator=generator, dtype=torch.float64)
        exact = apply(direction)
        estimates = [differences(step)(direction) for step in STEPS]
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


def _rms(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt()) or 1.0


def _hessian(problem: Problem) -> tuple[Apply, Callable[[float], Apply]]:
    """Products with the Hessian through one gradient's graph, and by central differences of a given step."""
    theta = problem.theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta, create_graph=True)

    def apply(vector: Tensor) -> Tensor:
        return _backward(gradient, theta, vector)

    slope = _gradient(problem.loss)
    return apply, lambda step: lambda v: _difference(slope, problem.theta, v, step * _rms(problem.theta))


def _ggn(problem: Problem) -> tuple[Apply, Callable[[float], Apply]]:
    """Products with J^T L J: J by reverse mode twice (the double-backward trick), L through the criterion's gradient.

    By central differences: those of the outputs for J, and of the criterion's gradient for L.
    """
    outputs_of, criterion = problem.outputs, problem.criterion
    assert outputs_of is not None
    assert criterion is not None
    theta = problem.theta.detach().requires_grad_()
    outputs = outputs_of(theta)
    dummy = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, theta, dummy, create_graph=True)
    predicted = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(criterion(predicted, problem.targets), predicted, create_graph=True)

    def pull(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, theta, cotangent, retain_graph=True)[0]

    def apply(vector: Tensor) -> Tensor:
        return pull(_backward(slope, predicted, _backward(pulled, dummy, vector)))

    slope_of = _gradient(lambda predicted: criterion(predicted, problem.targets))

    def without_graph(theta: Tensor) -> Tensor:
        return outputs_of(theta).detach()

    def differences(step: float) -> Apply:
        def by_steps(vector: Tensor) -> Tensor:
            pushed = _difference(without_graph, problem.theta, vector, step * _rms(problem.theta))
            scale = _rms(pushed)
            return scale * pull(_difference(slope_of, predicted.detach(), pushed / scale, step * _rms(predicted)))

        return by_steps

    return apply, differences


def _gradient(function: Apply) -> Apply:
    """The gradient of a scalar function, as a function of the point."""

    def gradient(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        return torch.autograd.grad(function(point), point)[0]

    return gradient


def _backward(of: Tensor, in_: Tensor, vector: Tensor) -> Tensor:
    """The derivative of `of . vector` in `in_`; zero where `of` is constant."""
    if not of.requires_grad:
        return torch.zeros_like(in_)
    return torch.autograd.grad(of, in_, vector, retain_graph=True, materialize_grads=True)[0]


def _difference(function: Apply, point: Tensor, vector: Tensor, step: float) -> Tensor:
    """Derivative along `vector` by central differences of two steps, extrapolated (Richardson; error step^4)."""

    def central(step: float) -> Tensor:
        return (function(point + step * vector) - function(point - step * vector)) / (2 * step)

    return (4 * central(step / 2) - central(step)) / 3
