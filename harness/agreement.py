"""Is the result right? The kind of thing a method returned, and its distance from the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.reference import DOUBTFUL, Reference

# Largest relative Frobenius error that counts as right: some ten to a thousand times the rounding errors seen
# (float64 7e-16, float32 3e-7, float16 5e-4, bfloat16 4e-3), and far below the percents of a wrong rule.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
DIFFERENCES_TOLERANCE = 1e-8  # central differences are themselves no better than about 1e-10
STANDARD_ERRORS = 4  # that a random estimate may be off

BLOCK = 1024  # rows of a result converted to float64 at once


def contract(
    result: Any, quantity: str, theta: Tensor, vectors: Tensor | None, sizes: Sequence[int] = ()
) -> str | None:
    """What is wrong with the kind of thing a method returned; None if it is as asked.

    A tensor; for a block-diagonal a tuple of them, one for each of `sizes`; a random estimate comes with its
    `standard_error` of the same shape and its number of `probes` (`methods.hutchinson.Estimate`).
    """
    params = theta.numel()
    products = () if vectors is None else tuple(vectors.shape)
    square = (params, params)
    shapes = {"hessian": [square], "ggn": [square], "diagonal": [(params,)], "hvp": [products],
              "block_diagonal": [(size, size) for size in sizes]}[quantity]  # fmt: skip
    if quantity == "block_diagonal" and not (isinstance(result, tuple | list) and len(result) == len(sizes)):
        found = f"{len(result)} of them" if isinstance(result, tuple | list) else type(result).__name__
        return f"returned {found}; block_diagonal is a tuple of {len(sizes)} tensors, one for each parameter tensor"
    tensors: Any = result if quantity == "block_diagonal" else [result]
    if is_estimate(result):
        tensors, shapes = [getattr(result, name) for name in ("value", "standard_error")], shapes * 2
    for found, shape in zip(tensors, shapes, strict=True):
        fault = _tensor_fault(found, shape, quantity, theta)
        if fault is not None:
            return fault
    return None


def _tensor_fault(result: Any, shape: tuple[int, ...], quantity: str, theta: Tensor) -> str | None:
    if not isinstance(result, Tensor):
        return f"returned {type(result).__name__}, not a tensor"
    if tuple(result.shape) != shape:
        return f"returned shape {tuple(result.shape)}; {quantity} of {theta.numel()} parameters has shape {shape}"
    if result.dtype != theta.dtype or result.device != theta.device:
        return f"returned {result.dtype} on {result.device}; asked for {theta.dtype} on {theta.device}"
    if result.requires_grad:
        return "returned a tensor that requires grad, which keeps its graph in memory: return result.detach()"
    return None


def is_estimate(result: Any) -> bool:
    """Whether a result is a random estimate that tells its standard error."""
    return all(hasattr(result, name) for name in ("value", "standard_error", "probes"))


def same(value: Any, other: Any) -> bool:
    """Whether two values are the same, tensors bit by bit."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value, other)
    return value is other or (not isinstance(value, Tensor) and not isinstance(other, Tensor) and value == other)


def compare(result: Any, quantity: str, truth: Reference, hessian: Reference | None = None) -> dict[str, Any]:
    """The agreement fields of a record, `status` and `message` among them, for a result of the right kind.

    For a GGN `truth` is the true GGN; its distance from `hessian` is a field of its own, and no error.
    """
    standard_error = None
    fields: dict[str, Any] = {}
    if is_estimate(result):
        standard_error = result.standard_error.to("cpu", torch.float64)
        fields["estimate_probes"] = result.probes
        result = result.value
    tensors = [tensor.detach().to("cpu") for tensor in (result if quantity == "block_diagonal" else [result])]
    told = [*tensors, *([] if standard_error is None else [standard_error])]
    tolerance = TOLERANCE[tensors[0].dtype]
    if truth.kind == "central_differences":
        tolerance = max(tolerance, DIFFERENCES_TOLERANCE, 10 * truth.error if truth.error <= DOUBTFUL else 0.0)
    fields |= {
        "reference": truth.kind,
        "reference_error": truth.error,
        "probes": None if truth.directions is None or quantity == "hvp" else truth.directions.shape[1],
        "nonfinite": sum(int((~torch.isfinite(part)).sum()) for tensor in told for part in tensor.split(BLOCK)),
        "tolerance": tolerance,
    }
    if fields["nonfinite"]:
        share = f"{fields['nonfinite']} of {sum(t.numel() for t in told)} entries are NaN or infinite"
        return fields | {"status": "nonfinite", "message": f"{share}; compare dtype=float64 and another method"}
    if truth.kind == "central_differences" and not truth.error <= DOUBTFUL:
        message = f"central differences give no truth at this point (their own error is {truth.error:.0e}): a kink?"
        return fields | {"status": "error", "message": message}
    if quantity == "block_diagonal":
        fields |= _compare_blocks(tensors, truth)
    else:
        compared = {"hessian": _compare_matrix, "ggn": _compare_matrix, "diagonal": _compare_diagonal,
                    "hvp": _compare_hvp}[quantity]  # fmt: skip
        fields |= compared(tensors[0], truth)
    if hessian is not None:
        fields["hessian_distance"] = _compare_matrix(tensors[0], hessian)["relative_error"]
    if not math.isfinite(fields["relative_error"]):
        return fields | {"status": "error", "message": "the reference in float64 is itself not finite at this point"}
    if standard_error is not None:
        return fields | _judge_estimate(fields, standard_error, truth)
    verdict = _verdict(fields, tensors[0].dtype, truth)
    if not truth.error <= DOUBTFUL:
        doubt = (
            f"central differences do not confirm the reference (distance {truth.error:.0e}): a kink, or the edge of "
        )
        verdict["message"] = "; ".join(filter(None, [verdict["message"], doubt + "the loss's domain?"]))
    return fields | verdict


def _judge_estimate(fields: dict[str, Any], standard_error: Tensor, truth: Reference) -> dict[str, Any]:
    """Status of an estimated diagonal: its error against what it says of itself, both over the known entries."""
    known = _diagonal(truth)
    relative = float(standard_error[truth.columns].norm() / (known.norm() or 1.0))
    tolerance = max(fields["tolerance"], STANDARD_ERRORS * relative)
    status = "ok" if fields["relative_error"] <= tolerance else "wrong"
    message = (
        f"an estimate from {fields['estimate_probes']} probes: error {fields['relative_error']:.1e}, standard error "
        f"{relative:.1e}, both relative to the diagonal"
    )
    return {"standard_error": relative, "tolerance": tolerance, "status": status, "message": message}


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


def _compare_matrix(found: Tensor, truth: Reference) -> dict[str, Any]:
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
    true = _diagonal(truth)
    worst = _worst((entries - true).abs(), truth.values.abs().amax(0))
    return {"relative_error": _distance(entries, true), "worst_error": worst}


def _diagonal(truth: Reference) -> Tensor:
    """The known entries (c,) of the diagonal."""
    return truth.values[truth.columns, torch.arange(len(truth.columns))]


def _compare_blocks(found: Sequence[Tensor], truth: Reference) -> dict[str, Any]:
    """Compared in the known columns, each as far as it lies in its block."""
    starts = itertools.accumulate((len(block) for block in found), initial=0)
    entries, trues, worsts, uneven, size = [], [], [0.0], 0.0, 0.0
    for block, start in zip(found, starts, strict=False):
        block = block.to(torch.float64)
        inside = (truth.columns >= start) & (truth.columns < start + len(block))
        columns, true = block[:, truth.columns[inside] - start], truth.values[start : start + len(block), inside]
        if true.numel():
            worsts.append(_worst((columns - true).abs(), true.abs().amax(0)))
        entries.append(columns.flatten())
        trues.append(true.flatten())
        uneven += float((block - block.T).square().sum())
        size += float(block.square().sum())
    relative = _distance(torch.cat(entries), torch.cat(trues))
    return {"relative_error": relative, "worst_error": max(worsts),
            "asymmetry": math.sqrt(uneven / size) if size else 0.0}  # fmt: skip


def _compare_hvp(found: Tensor, truth: Reference) -> dict[str, Any]:
    assert truth.products is not None
    products = found.to(torch.float64)
    worst = _worst((products - truth.products).abs(), truth.products.abs().amax(0))
    return {"relative_error": _distance(products, truth.products), "worst_error": worst}


def _worst(errors: Tensor, scales: Tensor) -> float:
    """Largest error over its scale; where a scale is zero, over the largest of all, or 1."""
    fallback = scales.max() if bool(scales.any()) else torch.ones(())
    return float((errors / torch.where(scales > 0, scales, fallback)).max())


def _distance(found: Tensor, true: Tensor) -> float:
    """Relative Frobenius distance; absolute where the truth is zero."""
    return float((found - true).norm() / (true.norm() or 1.0))
