"""Is the result right? The verdict on its distance from the reference, and remarks on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.truth import answers, approximations, bounds, estimates, per_sample
from harness.truth.approximations import NewtonStep
from harness.truth.distances import (
    block_distances,
    diagonal_distances,
    hvp_distances,
    matrix_distances,
    per_sample_distances,
)
from harness.truth.kinds import Bounded, mapped, products_of
from harness.truth.reference import Reference
from harness.truth.remarks import with_remarks
from harness.truth.results import is_approximation, is_estimate, plain, reported_tensors, result_tensors
from harness.truth.shards import BLOCK, RowShard
from harness.truth.verdict import Fields

# Largest relative Frobenius error that counts as right. It is ten to a thousand times the rounding errors seen
# (float64 7e-16, float32 3e-7, float16 5e-4, bfloat16 4e-3) and far below the percents of a wrong rule.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
LOOSEST = 0.1  # tolerance up to which a result can be judged: zeros have an error of 1
DIFFERENCES_TOLERANCE = 1e-8  # central differences are themselves no better than about 1e-10


def compare(
    result: Any,
    quantity: str,
    truth: Reference,
    hessian: Reference | None = None,
    newton: NewtonStep | None = None,
) -> Fields:
    """The agreement fields of a record, `status` and `message` among them, for a result of the right kind.

    For a GGN `truth` is the true GGN. The distance of the result from `hessian` is then a field of its own; it is no
    error. An approximation is also judged by its `newton` step, if given.
    """
    result = plain(result)
    if truth.per_sample:
        result, quantity = per_sample.flattened(result, quantity)
    estimate = result if is_estimate(result) else None
    attached = result_tensors(result)
    tensors = [tensor.detach().to("cpu") for tensor in attached]
    dtype = tensors[0].dtype
    reported = [tensor.detach().to("cpu") for tensor in reported_tensors(result)]
    fields = _described(truth, quantity, dtype) | {
        "requires_grad": any(tensor.requires_grad for tensor in attached),
        "nonfinite": _nonfinite(reported),
        "products": products_of(result),
    }
    if estimate is not None:
        fields["estimate_probes"] = estimate.probes
    obstacle = _obstacle(fields, reported, truth, dtype)
    if obstacle is not None:
        return fields | obstacle
    if truth.answer is not None:
        fields |= answers.judge(_in_float64(result), truth, fields["tolerance"], dtype)
        return fields | with_remarks(fields, truth, quantity, dtype)
    fields |= _distances(tensors, quantity, truth)
    if hessian is not None:
        fields["hessian_distance"] = matrix_distances(tensors[0], hessian)["relative_error"]
    if not math.isfinite(fields["relative_error"]):
        return fields | _beyond_float64(tensors, quantity, truth)
    if is_approximation(result):
        fields |= approximations.judge(tensors[0], truth, fields["relative_error"], newton)
    elif estimate is not None:
        fields |= _judge_estimate(fields, tensors[0], reported[1], quantity, truth)
    elif isinstance(result, Bounded):
        off, known, stated = _known_errors(tensors[0], reported[1], quantity, truth)
        fields |= bounds.judge(off, known, stated, fields["tolerance"], truth.scale.sizes.get(dtype))
    else:
        fields |= _verdict(fields, dtype, truth)
    return fields | with_remarks(fields, truth, quantity, dtype)


def _in_float64(result: Any) -> Any:
    """A plain result with its tensors on the CPU, in float64."""

    def exact(value: Any) -> Any:
        return value.detach().to("cpu", torch.float64) if isinstance(value, Tensor) else value

    return exact(result) if isinstance(result, Tensor) else mapped(exact, result)


def _described(truth: Reference, quantity: str, dtype: torch.dtype) -> Fields:
    """The fields that describe the reference, and the tolerance in the result's dtype."""
    inner = truth.inner(dtype)
    return {
        "reference": truth.kind,
        "reference_error": truth.error,
        "probes": _probes(truth, quantity),
        "compared": 1.0 if quantity == "hvp" or truth.answer is not None else len(truth.columns) / len(truth.values),
        "inner_dtype": None if inner is None else _name(inner),
        "tolerance": _tolerance(truth, dtype),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _probes(truth: Reference, quantity: str) -> int | None:
    """The number of random directions that were compared; None where there were none."""
    if quantity == "block_diagonal" and truth.blocks is not None and len(truth.columns) < len(truth.values):
        return truth.blocks[0][0].shape[1]
    return (
        None if truth.directions is None or quantity == "hvp" or truth.answer is not None else truth.directions.shape[1]
    )


def _tolerance(truth: Reference, dtype: torch.dtype) -> float:
    """Largest relative error that is right: that of the dtype, or of what limits the loss or the reference itself."""
    limits = [TOLERANCE[dtype]]
    inner = truth.inner(dtype)
    if inner is not None:
        limits.append(TOLERANCE.get(inner, 4 * torch.finfo(inner).eps))
    if truth.kind == "central_differences":
        limits.append(DIFFERENCES_TOLERANCE)
        if truth.confirmed:
            limits.append(10 * truth.error)
    if truth.answer is not None:
        limits = [answers.tolerance(truth.answer, dtype, max(limits[1:], default=0.0))]
    return max(limits) * truth.scale.slack_of(dtype)


def _nonfinite(tensors: Sequence[Tensor | RowShard]) -> int:
    """The number of entries that are NaN or infinite."""
    return sum(
        tensor.nonfinite()
        if isinstance(tensor, RowShard)
        else sum(int((~torch.isfinite(part)).sum()) for part in torch.atleast_1d(tensor).split(BLOCK))
        for tensor in tensors
    )


def _obstacle(
    fields: Fields, reported: Sequence[Tensor | RowShard], truth: Reference, dtype: torch.dtype
) -> Fields | None:
    """`status` and `message` where no distance can be judged; None where one can."""
    if fields["nonfinite"]:
        share = f"{fields['nonfinite']} of {sum(t.numel() for t in reported)} entries are NaN or infinite"
        return {"status": "nonfinite", "message": f"{share}; compare dtype=float64 and another method"}
    if truth.kind == "central_differences" and not truth.confirmed:
        cause = "a kink" if truth.inner_dtype is None else f"the {_name(truth.inner_dtype)} within the loss"
        message = f"central differences give no truth at this point (their own error is {truth.error:.0e}): {cause}?"
        return {"status": "error", "message": message}
    if truth.answer is not None and not bool(truth.answer.value.isfinite().all()):
        return {"status": "error", "message": "the true answer in float64 is itself not finite at this point"}
    coarseness = fields["tolerance"]
    if truth.answer is not None:
        coarseness = answers.coarseness(truth, coarseness, dtype)
    if coarseness > LOOSEST:
        return {"status": "error", "message": _unjudged(truth, dtype)}
    return None


def _unjudged(truth: Reference, dtype: torch.dtype) -> str:
    """Why no result can be judged in this dtype, where the tolerance would be that of zeros, or nearly."""
    if truth.scale.slack_of(dtype) > 1:
        finer = "; use float64" if dtype != torch.float64 else ": terms cancel; rewrite the loss"
        return f"rounding leaves nothing to judge in {_name(dtype)}{finer}"
    inner = truth.inner(dtype)
    if truth.answer is not None and inner is None:
        return answers.unjudged(truth.answer, _name(dtype))
    assert inner is not None
    return f"the loss computes in {_name(inner)} within, too coarse to judge a result by; use a finer precision there"


def _beyond_float64(tensors: Sequence[Tensor | RowShard], quantity: str, truth: Reference) -> Fields:
    """`status` and `message` where the distance of a finite result is not finite: the reference's own may be."""
    zeros = [part.zeros() if isinstance(part, RowShard) else torch.zeros_like(part) for part in tensors]
    if math.isfinite(_distances(zeros, quantity, truth)["relative_error"]):
        return {"status": "wrong", "message": "the squares of its errors are beyond the range of float64"}
    return {"status": "error", "message": "the reference in float64 is itself not finite at this point"}


def _distances(tensors: Sequence[Any], quantity: str, truth: Reference) -> Fields:
    """The distances of a result of this quantity from the reference."""
    if quantity == "block_diagonal":
        return block_distances(tensors, truth)
    of_matrices = per_sample_distances if truth.per_sample else matrix_distances
    measured = {"diagonal": diagonal_distances, "hvp": hvp_distances}.get(quantity, of_matrices)
    return measured(tensors[0], truth)


def _verdict(fields: Fields, dtype: torch.dtype, truth: Reference) -> Fields:
    """`status` and `message` for a result that is no estimate."""
    error, limit = fields["relative_error"], fields["tolerance"]
    if error <= limit:
        return {"status": "ok", "message": None}
    size = f"{truth.error:.0e}"
    known = f"itself {size} from differences"
    if truth.kind == "central_differences":
        known = f"with an estimated error of {size}"
    source = f"{truth.kind} in float64, {known}"
    message = f"relative error {error:.1e}; {_name(dtype)} is right up to {limit:.0e} (reference: {source})"
    return {"status": "wrong", "message": message}


def _judge_estimate(fields: Fields, value: Tensor, error: Tensor, quantity: str, truth: Reference) -> Fields:
    """The verdict on an estimate of any quantity, over the entries whose true values are known."""
    off, known, expected = _known_errors(value, error, quantity, truth)
    size = truth.scale.sizes.get(value.dtype, float(known.norm()))
    probes, tolerance = fields["estimate_probes"], fields["tolerance"]
    return estimates.judge(off.flatten(), expected.flatten(), known.flatten(), probes, tolerance, size)


def _known_errors(value: Tensor, stated: Tensor, quantity: str, truth: Reference) -> tuple[Tensor, Tensor, Tensor]:
    """The errors, the true values and what is stated of the errors, over the entries whose true values are known."""
    known = {"diagonal": truth.diagonal, "hvp": truth.products}.get(quantity, truth.values.T)
    assert known is not None
    if quantity == "hvp":
        return value.to(torch.float64) - known, known, stated.to(torch.float64)
    rows = truth.columns
    return value[rows].to(torch.float64) - known, known, stated[rows].to(torch.float64)
