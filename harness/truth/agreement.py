"""Is the result right? Its distance from the reference, and what is to be said of both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.truth import estimates
from harness.truth.reference import Reference
from harness.truth.results import contract, is_estimate, plain

__all__ = ["compare", "contract", "is_estimate", "plain"]

# Largest relative Frobenius error that counts as right: some ten to a thousand times the rounding errors seen
# (float64 7e-16, float32 3e-7, float16 5e-4, bfloat16 4e-3), and far below the percents of a wrong rule.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
LOOSEST = 0.1  # tolerance up to which a result can be judged: zeros have an error of 1
DIFFERENCES_TOLERANCE = 1e-8  # central differences are themselves no better than about 1e-10

BLOCK = 1024  # rows of a result converted to float64 at once


def compare(result: Any, quantity: str, truth: Reference, hessian: Reference | None = None) -> dict[str, Any]:
    """The agreement fields of a record, `status` and `message` among them, for a result of the right kind.

    For a GGN `truth` is the true GGN; its distance from `hessian` is a field of its own, and no error.
    """
    result, estimate = plain(result), None
    if is_estimate(result):
        result, estimate = result.value, result
    parts: Sequence[Tensor] = result if quantity == "block_diagonal" else [result]
    tensors = [tensor.detach().to("cpu") for tensor in parts]
    reported = tensors if estimate is None else [*tensors, estimate.standard_error.detach().to("cpu")]
    inner = truth.inner(tensors[0].dtype)
    fields: dict[str, Any] = {
        "reference": truth.kind,
        "reference_error": truth.error,
        "probes": _probes(truth, quantity),
        "compared": 1.0 if quantity == "hvp" else len(truth.columns) / len(truth.values),
        "inner_dtype": None if inner is None else _name(inner),
        "requires_grad": any(tensor.requires_grad for tensor in parts),
        "nonfinite": sum(int((~torch.isfinite(part)).sum()) for tensor in reported for part in tensor.split(BLOCK)),
        "tolerance": _tolerance(truth, tensors[0].dtype),
    }
    if estimate is not None:
        fields["estimate_probes"] = estimate.probes
    if fields["nonfinite"]:
        share = f"{fields['nonfinite']} of {sum(t.numel() for t in reported)} entries are NaN or infinite"
        return fields | {"status": "nonfinite", "message": f"{share}; compare dtype=float64 and another method"}
    if truth.kind == "central_differences" and not truth.confirmed:
        cause = "a kink" if truth.inner_dtype is None else f"the {_name(truth.inner_dtype)} within the loss"
        message = f"central differences give no truth at this point (their own error is {truth.error:.0e}): {cause}?"
        return fields | {"status": "error", "message": message}
    if fields["tolerance"] > LOOSEST:
        return fields | {"status": "error", "message": _unjudged(truth, tensors[0].dtype)}
    if quantity == "block_diagonal":
        fields |= _compare_blocks(tensors, truth)
    else:
        compared = {"diagonal": _compare_diagonal, "hvp": _compare_hvp}.get(quantity, _compare_matrix)
        fields |= compared(tensors[0], truth)
    if hessian is not None:
        fields["hessian_distance"] = _compare_matrix(tensors[0], hessian)["relative_error"]
    if not math.isfinite(fields["relative_error"]):
        return fields | {"status": "error", "message": "the reference in float64 is itself not finite at this point"}
    if estimate is None:
        fields |= _verdict(fields, tensors[0].dtype, truth)
    else:
        fields |= _judge_estimate(fields, tensors[0], reported[1], quantity, truth)
    cause = None  # comes first, as tables cut a long message
    if truth.departure is not None and not truth.departure.right:
        cause = truth.departure.message
        fields |= _by_wrong_gradient(fields) if truth.kind != "central_differences" else {}
    remarks = [cause, fields["message"], *_remarks(fields, truth, quantity, tensors[0].dtype)]
    return fields | {"message": "; ".join(filter(None, remarks)) or None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _probes(truth: Reference, quantity: str) -> int | None:
    """The number of random directions that were compared; None where there were none."""
    if quantity == "block_diagonal" and truth.blocks is not None and len(truth.columns) < len(truth.values):
        return truth.blocks[0][0].shape[1]
    return None if truth.directions is None or quantity == "hvp" else truth.directions.shape[1]


def _tolerance(truth: Reference, dtype: torch.dtype) -> float:
    """Largest relative error that is right: that of the dtype, or of what limits the loss or the reference itself."""
    limits = [TOLERANCE[dtype]]
    inner = truth.inner(dtype)
    if inner is not None:
        limits.append(TOLERANCE.get(inner, 4 * torch.finfo(inner).eps))
    if truth.kind == "central_differences":
        limits += [DIFFERENCES_TOLERANCE, 10 * truth.error if truth.confirmed else 0.0]
    return max(limits) * truth.scale.slack_of(dtype)


def _unjudged(truth: Reference, dtype: torch.dtype) -> str:
    """Why no result can be judged in this dtype, where the tolerance would be that of zeros, or nearly."""
    if truth.scale.slack_of(dtype) > 1:
        finer = "; use float64" if dtype != torch.float64 else ": terms cancel; rewrite the loss"
        return f"rounding leaves nothing to judge in {_name(dtype)}{finer}"
    inner = truth.inner(dtype)
    assert inner is not None
    return f"the loss computes in {_name(inner)} within, too coarse to judge a result by; use a finer precision there"


def _verdict(fields: dict[str, Any], dtype: torch.dtype, truth: Reference) -> dict[str, Any]:
    error, limit = fields["relative_error"], fields["tolerance"]
    if error > limit:
        known = "with an estimated error of {}" if truth.kind == "central_differences" else "itself {} from differences"
        source = f"{truth.kind} in float64, {known.format(f'{truth.error:.0e}')}"
        message = f"relative error {error:.1e}; {_name(dtype)} is right up to {limit:.0e} (reference: {source})"
        return {"status": "wrong", "message": message}
    return {"status": "ok", "message": None}


def _judge_estimate(
    fields: dict[str, Any], value: Tensor, error: Tensor, quantity: str, truth: Reference
) -> dict[str, Any]:
    """The verdict on an estimate of any quantity, over the entries whose true values are known."""
    known = {"diagonal": truth.diagonal, "hvp": truth.products}.get(quantity, truth.values.T)
    assert known is not None
    rows = slice(None) if quantity == "hvp" else truth.columns
    off, expected = value[rows].to(torch.float64) - known, error[rows].to(torch.float64)
    size = truth.scale.sizes.get(value.dtype, float(known.norm()))
    return estimates.judge(
        off.flatten(), expected.flatten(), known.flatten(), fields["estimate_probes"], fields["tolerance"], size
    )


def _by_wrong_gradient(fields: dict[str, Any]) -> dict[str, Any]:
    """The verdict where the reference is autograd's and the gradient is not the loss's, for too many parameters."""
    if fields["status"] == "ok":
        return {"status": "wrong", "message": "the result is autograd's, which does not differentiate this loss"}
    message = f"{fields['message']}; but that reference is autograd's, which does not differentiate this loss"
    return {"status": "error", "message": f"{message}, so nothing says whether the result is right"}


def _remarks(fields: dict[str, Any], truth: Reference, quantity: str, dtype: torch.dtype) -> Iterator[str]:
    """What else is to be said of a row."""
    if truth.scale.zero:
        yield (
            "the true values are all zero up to rounding, so errors are relative to "
            f"{truth.scale.sizes[dtype]:.1e}, the size of |gradient| / rms(theta) or of what cancels"
        )
    if fields["inner_dtype"] is not None:
        yield f"the loss computes in {fields['inner_dtype']} within, which limits the precision of its derivatives"
    slack = truth.scale.slack_of(dtype)
    if slack > 1:
        yield f"terms cancel: rounding is amplified, and the tolerance is {slack:.0e} times the usual one"
    if not (truth.confirmed or truth.trusted or truth.departure):
        yield (
            f"central differences do not confirm the reference (distance {truth.error:.0e}): a kink, or the edge of "
            "the loss's domain?"
        )
    if truth.departure is not None and truth.departure.right:
        yield truth.departure.message
    if quantity == "diagonal" and len(truth.columns) < len(truth.values):
        count, all_of_them = len(truth.columns), len(truth.values)
        yield (
            f"compared in {count} of {all_of_them} entries: an error in 1 % of them would be missed with probability "
            f"{math.exp(count * math.log(0.99)):.0e}"
        )
    if fields["requires_grad"]:
        yield "returned a tensor that requires grad, which keeps its graph in memory: return result.detach()"


def _compare_matrix(found: Tensor, truth: Reference) -> dict[str, Any]:
    zero = truth.scale.sizes.get(found.dtype)
    rows = found[truth.columns].to(torch.float64)  # (c, P); R is symmetric, so its columns are its rows
    if truth.directions is None or truth.products is None:
        relative = _distance(rows, truth.values.T, zero)
    else:
        blocks = [block.to(torch.float64) @ truth.directions for block in found.split(BLOCK)]
        relative = _distance(torch.cat(blocks), truth.products, zero)
    worst = _worst((rows - truth.values.T).abs(), truth.values.T.abs().amax(1, keepdim=True), zero)
    uneven = sum(
        float((rows.to(torch.float64) - columns.T.to(torch.float64)).square().sum())
        for rows, columns in zip(found.split(BLOCK), found.split(BLOCK, dim=1), strict=True)
    )
    size = sum(float(block.to(torch.float64).square().sum()) for block in found.split(BLOCK))
    return {"relative_error": relative, "worst_error": worst, "asymmetry": math.sqrt(uneven / size) if size else 0.0}


def _compare_diagonal(found: Tensor, truth: Reference) -> dict[str, Any]:
    assert truth.diagonal is not None
    assert truth.row_sizes is not None
    zero = truth.scale.sizes.get(found.dtype)
    entries = found[truth.columns].to(torch.float64)
    worst = _worst((entries - truth.diagonal).abs(), truth.row_sizes, zero)
    return {"relative_error": _distance(entries, truth.diagonal, zero), "worst_error": worst}


def _compare_blocks(found: Sequence[Tensor], truth: Reference) -> dict[str, Any]:
    """Each block by its products with the directions, and in the known columns as far as these lie in it."""
    assert truth.blocks is not None
    zero = truth.scale.sizes.get(found[0].dtype)
    starts = itertools.accumulate((len(block) for block in found), initial=0)
    products, worsts, uneven, size = [], [0.0], 0.0, 0.0
    for block, start, (directions, _) in zip(found, starts, truth.blocks, strict=False):
        block = block.to(torch.float64)
        inside = (truth.columns >= start) & (truth.columns < start + len(block))
        columns, true = block[:, truth.columns[inside] - start], truth.values[start : start + len(block), inside]
        if true.numel():
            worsts.append(_worst((columns - true).abs(), true.abs().amax(0), zero))
        products.append((block @ directions).flatten())
        uneven += float((block - block.T).square().sum())
        size += float(block.square().sum())
    relative = _distance(torch.cat(products), truth.compared, zero)
    asymmetry = math.sqrt(uneven / size) if size else 0.0
    return {"relative_error": relative, "worst_error": max(worsts), "asymmetry": asymmetry}


def _compare_hvp(found: Tensor, truth: Reference) -> dict[str, Any]:
    assert truth.products is not None
    zero = truth.scale.sizes.get(found.dtype)
    products = found.to(torch.float64)
    worst = _worst((products - truth.products).abs(), truth.products.abs().amax(0), zero)
    return {"relative_error": _distance(products, truth.products, zero), "worst_error": worst}


def _worst(errors: Tensor, scales: Tensor, zero: float | None) -> float:
    """Largest error over its scale; where a scale is zero, over the largest of all, or what `zero` errors are over."""
    if zero is not None or not bool(scales.any()):
        return float(errors.max()) / (zero or 1.0)
    return float((errors / torch.where(scales > 0, scales, scales.max())).max())


def _distance(found: Tensor, true: Tensor, zero: float | None) -> float:
    """Frobenius distance over the norm of what is true; where that is zero, over what errors are relative to then."""
    size = float(true.norm()) if zero is None else zero
    return float((found - true).norm()) / (size or 1.0)
