"""Is the result right?

Compared in float64 with the closed form, or with rows through autograd that central differences have confirmed; never
with torch.func.hessian, which is wrong under LayerNorm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.job import Measure
from harness.problems import Problem

# Largest relative Frobenius error that counts as right: some ten to a thousand times the rounding errors seen
# (float64 7e-16, float32 3e-7, float16 5e-4, bfloat16 4e-3), and far below the percents of a wrong rule.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
DIFFERENCES_TOLERANCE = 1e-8  # central differences are themselves no better than about 1e-10
DOUBTFUL = 1e-6  # a reference farther than this from central differences is doubted
STEPS = (1e-3, 1e-4, 1e-5)  # of central differences, times the parameters' root mean square
CHECKED = 4  # directions in which the reference is checked

BLOCK = 1024  # rows of a result converted to float64 at once


@dataclass(frozen=True)
class Reference:
    """The true Hessian R, whole or through its products."""

    kind: str  # closed_form, double_backward or central_differences
    error: float  # relative distance of R from central differences, in a few directions
    columns: Tensor  # (c,) indices of the columns that are known; all of them for a small problem
    values: Tensor  # (P, c) those columns
    directions: Tensor | None  # (P, k) Gaussian, or the vectors of an hvp; None where all columns are known
    products: Tensor | None  # (P, k) R times directions


def reference(problem: Problem, vectors: Tensor | None, measure: Measure, seed: int) -> Reference:
    """The reference for a problem on the CPU in float64; `vectors` (P, k) for an hvp, else None.

    Up to `measure.full_up_to` parameters every column is computed; above, `measure.rows` random ones and the products
    with `measure.probes` Gaussian directions. Where they disagree with central differences that do not depend on the
    step, autograd itself is wrong (or the closed form), and central differences are taken. Where those do depend on the
    step, as at a kink, they say nothing, and the reference stays, unconfirmed.
    """
    params = problem.theta.numel()
    generator = torch.Generator().manual_seed(seed)
    checked = torch.randn(params, CHECKED, generator=generator, dtype=torch.float64)
    columns = torch.arange(0) if vectors is not None else torch.arange(params)
    directions = vectors
    if vectors is None and params > measure.full_up_to:
        columns = torch.randperm(params, generator=generator)[: measure.rows].sort().values
        directions = torch.randn(params, measure.probes, generator=generator, dtype=torch.float64)

    kind, apply = "double_backward", _double_backward(problem)
    if problem.hessian is not None:
        kind, apply = "closed_form", _product(problem.hessian().to(torch.float64))
    gradient = _gradient(problem)
    scale = float(problem.theta.square().mean().sqrt()) or 1.0
    estimates = [_by_differences(gradient, problem.theta, step * scale)(checked) for step in STEPS]
    exact = apply(checked)
    error = min((_distance(estimate, exact) for estimate in estimates), key=_nan_last)
    spreads = [_distance(fine, coarse) for coarse, fine in itertools.pairwise(estimates)]
    spread, step = min(zip(spreads, STEPS[1:], strict=True), key=lambda pair: _nan_last(pair[0]))
    if error > DOUBTFUL > spread:
        kind, error, apply = "central_differences", spread, _by_differences(gradient, problem.theta, step * scale)

    one_hot = torch.zeros(params, len(columns), dtype=torch.float64)
    one_hot[columns, torch.arange(len(columns))] = 1
    products = None if directions is None else apply(directions)
    return Reference(kind, error, columns, apply(one_hot), directions, products)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vectors: matrix @ vectors


def _double_backward(problem: Problem) -> Callable[[Tensor], Tensor]:
    """V -> R V, (P, k) -> (P, k), one backward pass a column through one gradient's graph."""
    theta = problem.theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(vector)
        return torch.autograd.grad(gradient, theta, vector, retain_graph=True, materialize_grads=True)[0]

    return lambda vectors: _columns(product, vectors)


def _gradient(problem: Problem) -> Callable[[Tensor], Tensor]:
    def gradient(theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(problem.loss(theta), theta)[0]

    return gradient


def _by_differences(gradient: Callable[[Tensor], Tensor], theta: Tensor, step: float) -> Callable[[Tensor], Tensor]:
    """V -> R V by central differences of the gradient, extrapolated from two steps (Richardson; error step^4)."""

    def central(vector: Tensor, step: float) -> Tensor:
        return (gradient(theta + step * vector) - gradient(theta - step * vector)) / (2 * step)

    return lambda vectors: _columns(lambda v: (4 * central(v, step / 2) - central(v, step)) / 3, vectors)


def _columns(product: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    return torch.stack([product(v) for v in vectors.unbind(1)], dim=1) if vectors.shape[1] else vectors.clone()


def _distance(found: Tensor, true: Tensor) -> float:
    """Relative Frobenius distance; absolute where the truth is zero."""
    return float((found - true).norm() / (true.norm() or 1.0))


def contract(result: Any, quantity: str, theta: Tensor, vectors: Tensor | None) -> str | None:
    """What is wrong with the kind of thing a method returned; None if it is as asked."""
    params = theta.numel()
    products = () if vectors is None else tuple(vectors.shape)
    shape = {"hessian": (params, params), "diagonal": (params,), "hvp": products}[quantity]
    if not isinstance(result, Tensor):
        return f"returned {type(result).__name__}, not a tensor"
    if tuple(result.shape) != shape:
        return f"returned shape {tuple(result.shape)}; {quantity} of {params} parameters has shape {shape}"
    if result.dtype != theta.dtype or result.device != theta.device:
        return f"returned {result.dtype} on {result.device}; asked for {theta.dtype} on {theta.device}"
    if result.requires_grad:
        return "returned a tensor that requires grad, which keeps its graph in memory: return result.detach()"
    return None


def same(value: Any, other: Any) -> bool:
    """Whether two values are the same, tensors bit by bit."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value, other)
    return value is other or (not isinstance(value, Tensor) and not isinstance(other, Tensor) and value == other)


def compare(result: Tensor, quantity: str, truth: Reference) -> dict[str, Any]:
    """The agreement fields of a record, `status` and `message` among them, for a result of the right kind."""
    tolerance = TOLERANCE[result.dtype]
    if truth.kind == "central_differences":
        tolerance = max(tolerance, DIFFERENCES_TOLERANCE)
    found = result.detach().to("cpu")
    fields: dict[str, Any] = {
        "reference": truth.kind,
        "reference_error": truth.error,
        "probes": None if truth.directions is None or quantity == "hvp" else truth.directions.shape[1],
        "nonfinite": int((~torch.isfinite(found)).sum()),
        "tolerance": tolerance,
    }
    if fields["nonfinite"]:
        share = f"{fields['nonfinite']} of {found.numel()} entries are NaN or infinite"
        return fields | {"status": "nonfinite", "message": f"{share}; compare dtype=float64 and another method"}
    fields |= {"hessian": _compare_hessian, "diagonal": _compare_diagonal, "hvp": _compare_hvp}[quantity](found, truth)
    if not math.isfinite(fields["relative_error"]):
        return fields | {"status": "error", "message": "the reference in float64 is itself not finite at this point"}
    verdict = _verdict(fields, result.dtype, truth)
    if not truth.error <= DOUBTFUL:
        doubt = (
            f"central differences do not confirm the reference (distance {truth.error:.0e}): a kink, or the edge of "
        )
        verdict["message"] = "; ".join(filter(None, [verdict["message"], doubt + "the loss's domain?"]))
    return fields | verdict


def _verdict(fields: dict[str, Any], dtype: torch.dtype, truth: Reference) -> dict[str, Any]:
    known = truth.values if truth.products is None else truth.products
    if not known.any():
        status = "ok" if fields["relative_error"] == 0 else "wrong"
        return {"status": status, "message": "the true values are all zero here, so the errors are absolute"}
    error, limit = fields["relative_error"], fields["tolerance"]
    if error > limit:
        name = str(dtype).removeprefix("torch.")
        source = f"{truth.kind} in float64, itself {truth.error:.0e} from central differences"
        message = f"relative error {error:.1e}; {name} is right up to {limit:.0e} (reference: {source})"
        return {"status": "wrong", "message": message}
    return {"status": "ok", "message": None}


def _compare_hessian(found: Tensor, truth: Reference) -> dict[str, Any]:
    rows = found[truth.columns].to(torch.float64)  # (c, P); R is symmetric, so its columns are its rows
    if truth.directions is None or truth.products is None:
        relative = _distance(rows, truth.values.T)
    else:
        blocks = [block.to(torch.float64) @ truth.directions for block in found.split(BLOCK)]
        relative = _distance(torch.cat(blocks), truth.products)
    worst = _worst((rows - truth.values.T).abs(), truth.values.T.abs().amax(1, keepdim=True))
    uneven = sum(
        float((rows.to(torch.float64) - columns.T.to(torch.float64)).square().sum())
        for rows, columns in zip(found.split(BLOCK), found.split(BLOCK, dim=1), strict=True)
    )
    size = sum(float(block.to(torch.float64).square().sum()) for block in found.split(BLOCK))
    return {"relative_error": relative, "worst_error": worst, "asymmetry": math.sqrt(uneven / size) if size else 0.0}


def _compare_diagonal(found: Tensor, truth: Reference) -> dict[str, Any]:
    entries = found[truth.columns].to(torch.float64)
    true = truth.values[truth.columns, torch.arange(len(truth.columns))]
    worst = _worst((entries - true).abs(), truth.values.abs().amax(0))
    return {"relative_error": _distance(entries, true), "worst_error": worst}


def _compare_hvp(found: Tensor, truth: Reference) -> dict[str, Any]:
    assert truth.products is not None
    products = found.to(torch.float64)
    worst = _worst((products - truth.products).abs(), truth.products.abs().amax(0))
    return {"relative_error": _distance(products, truth.products), "worst_error": worst}


def _worst(errors: Tensor, scales: Tensor) -> float:
    """Largest error over its scale; where a scale is zero, over the largest of all, or 1."""
    fallback = scales.max() if bool(scales.any()) else torch.ones(())
    return float((errors / torch.where(scales > 0, scales, fallback)).max())
