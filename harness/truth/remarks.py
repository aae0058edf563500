"""Remarks on a verdict: what limits it, and what else was found."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from harness.truth.reference import Reference
from harness.truth.verdict import Fields


def with_remarks(fields: Fields, truth: Reference, quantity: str, dtype: torch.dtype) -> Fields:
    """The verdict with all remarks in its message, and as it is where the gradient is not the loss's."""
    cause = _wrong_gradient(truth)  # comes first, since tables cut a long message
    if cause is not None and truth.kind != "central_differences":
        fields = fields | _by_wrong_gradient(fields)
    remarks = [cause, fields["message"], *_remarks(fields, truth, quantity, dtype)]
    return {"status": fields["status"], "message": "; ".join(filter(None, remarks)) or None}


def _wrong_gradient(truth: Reference) -> str | None:
    """What was found where the gradient is not the loss's; None where it is, or is meant to differ."""
    if truth.departure is None or truth.departure.right:
        return None
    return truth.departure.message


def _by_wrong_gradient(fields: Fields) -> Fields:
    """The verdict where the gradient is not the loss's, but the reference is autograd's for too many parameters."""
    if fields["status"] == "ok" and "approximation" not in fields:
        return {"status": "wrong", "message": "the result is autograd's, which does not differentiate this loss"}
    message = f"{fields['message']}; but that reference is autograd's, which does not differentiate this loss"
    return {"status": "error", "message": f"{message}, so nothing says whether the result is right"}


def _remarks(fields: Fields, truth: Reference, quantity: str, dtype: torch.dtype) -> Iterator[str]:
    """Further remarks for the message of a record."""
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
