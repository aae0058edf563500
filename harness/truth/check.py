"""The agreement pass: one call, judged by its traces, by the kind of thing it returned and by its distance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from harness.problems.binding import Cell, module_of
from harness.truth import agreement, sketch
from harness.truth.apart import Truth
from harness.truth.explanation import explained
from harness.truth.watch import Watch


def judged(cell: Cell, watch: Watch, truth: Truth) -> Iterator[dict[str, Any]]:
    """The agreement fields of a record, and what is `checked` of the result, which those that were timed must share.

    A fault in what was left behind comes first, since it may have changed what a comparison computes with.
    """
    job, problem = cell.job, cell.problem
    watch.bound(cell)
    result = agreement.plain(cell.call())
    left_behind = watch.fault(cell)
    if left_behind is not None:
        yield left_behind
        return
    fault = agreement.contract(result, job.quantity, problem.theta, cell.vectors, problem.sizes)
    if fault is not None:
        yield {"status": "wrong", "message": f"{job.target} {fault}"}
        return
    several: Any = result if isinstance(result, tuple | list) else [result]  # blocks, or an estimate and its error
    held = [entry for entry in several if isinstance(entry, Tensor)]
    tensors = held[:1] if agreement.is_estimate(result) else held
    yield {"output_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held)}
    seen = agreement.compare(result, job.quantity, truth.of, truth.hessian)
    if not seen["nonfinite"]:
        size = truth.of.scale.sizes.get(tensors[0].dtype)  # what errors are relative to, for true zeros
        numbers = sketch.bilinear(tensors)
        seen |= {"sketch": sketch.sketch(tensors), "checked": {"numbers": numbers, "size": size}}
    yield {"status": "ok"} | seen
    yield {"explained": explained(module_of(job), cell.offered | {"quantity": job.quantity})}
