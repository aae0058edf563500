"""The agreement pass: one call of the method, judged by its side effects, its type and its distance from the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.measure import ranks
from harness.problems.binding import BoundMethod
from harness.problems.method_source import module_of
from harness.problems.modes import AUTOCAST
from harness.truth import agreement, sketch
from harness.truth.approximations import NewtonStep
from harness.truth.explanation import explained
from harness.truth.reference_process import Truth
from harness.truth.results import plain, result_fault, result_tensors
from harness.truth.shards import RowShard
from harness.truth.side_effects import SideEffects


def agreement_pass(bound: BoundMethod, side_effects: SideEffects, truth: Truth) -> Iterator[dict[str, Any]]:
    """The agreement fields of a record, as they become known; a faulty `status` ends them.

    For the launcher there is also `checked`: numbers of the result, with which the timed results must agree
    (`harness.truth.timed_results`). A side effect is reported first, since it may have changed what a comparison
    computes with.
    """
    job, problem = bound.job, bound.problem
    side_effects.remember(bound)
    result = plain(bound.call())
    ranks.meet()  # so that it is known which rank did not end its call
    left_behind = side_effects.fault(bound)
    if left_behind is not None:
        yield left_behind
        return
    fault = result_fault(result, job.quantity, problem.theta, bound.vectors, problem.sizes, job.k, problem.points)
    if fault is not None:
        yield {"status": "wrong", "message": f"{job.target} {fault}"}
        return
    yield {"output_bytes": _output_bytes(result)}
    reference = truth.reference
    if isinstance(result, RowShard) and reference.directions is None:  # every entry is compared, so that it is small
        result = result.gathered()
    if job.mode == "autocast":
        reference = replace(reference, inner_of_float32=AUTOCAST)
    newton = None if truth.gradient is None else NewtonStep(truth.gradient, job.damping)
    seen = agreement.compare(result, job.quantity, reference, truth.hessian, newton)
    if not seen["nonfinite"]:
        tensors = result_tensors(result)
        size = truth.reference.size_of_errors(tensors[0].dtype)
        numbers = sketch.bilinear(tensors)
        seen["sketch"] = sketch.sketch(tensors)
        if all(map(math.isfinite, numbers)):  # sums of entries near the largest number are not
            seen["checked"] = {"numbers": numbers, "size": size}
    yield {"status": "ok"} | seen
    yield {"explained": explained(module_of(job), bound.offered | {"quantity": job.quantity})}


def _output_bytes(result: Any) -> int:
    """Bytes of all tensors of a result: of its blocks, or of an estimate and its standard error."""
    entries: Any = result if isinstance(result, tuple | list) else [result]
    return sum(entry.numel() * entry.element_size() for entry in entries if isinstance(entry, Tensor | RowShard))
