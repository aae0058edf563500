"""The time pass: a first call, samples of further ones, and whether what was timed can be believed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.measure import clock, counters, environment
from harness.problems.binding import Cell
from harness.truth import caching
from harness.truth.watch import Watch
from harness.truth.witness import Witness

Fields = Iterator[dict[str, Any]]  # of a record, as they become known


def timing(cell: Cell, watch: Watch, began: float) -> Fields:
    """The fields of the time pass; a `status` ends it.

    `began` is when the process did, by `time.perf_counter()`: the time limit counts from there. For the launcher there
    are also `timed` (`harness.truth.timed`), and `running`, the phase after the samples (`fresh.CALL`). Outside the
    clock: what the first call left behind, and the others; whether they were computed (`fresh`).
    """
    with tempfile.TemporaryDirectory() as compiled:  # so that the first call compiles, whatever was compiled before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        watch.bound(cell)
        for fields in _calls(cell, watch, began):
            yield fields
            if "status" in fields:
                return
    yield {"gradient_s": _gradient_s(cell)}


def _calls(cell: Cell, watch: Watch, began: float) -> Fields:
    """The first call, then samples with what the machine did meanwhile, then a few calls elsewhere."""
    measure, witness = cell.job.measure, Witness(cell)
    waited, gpu = environment.cpu_waiting_s(), _gpu(cell)
    first_s, _, result = clock.timed(cell.call, cell.device)
    yield watch.fault(cell) or {"first_s": first_s}
    witness.see(result)
    del result
    witness.release()
    samples = clock.sample(cell.call, cell.device, measure, measure.budget_s, first_s, witness)
    seen: dict[str, Any] = samples.fields()
    now = environment.cpu_waiting_s()
    if waited is not None and now is not None:
        seen["cpu_pressure"] = (now - waited) / (first_s + sum(samples.warmup_s) + samples.sampling_wall_s)
    yield seen | {"gpu_before": gpu, "gpu_after": _gpu(cell)} | counters.compilation()
    yield watch.fault(cell) or {}
    told = witness.fields()
    yield {"timed": told}
    left_s = cell.job.limit_s - (time.perf_counter() - began)
    fault = yield from caching.fault(cell, samples.times_s, witness.last, left_s)
    yield {"timed": {"fault": fault} | told} | caching.OWN


def _gradient_s(cell: Cell) -> list[float]:
    """Samples of one gradient, in a tenth of the budget."""

    def gradient() -> Tensor:
        theta = cell.problem.theta.detach().requires_grad_()
        return torch.autograd.grad(cell.problem.loss(theta), theta)[0]

    measure = cell.job.measure
    first_s = clock.timed(gradient, cell.device).wall_s
    return clock.sample(gradient, cell.device, measure, measure.budget_s / 10, first_s).times_s


def _gpu(cell: Cell) -> str | None:
    query = "clocks.sm,clocks.mem,clocks_throttle_reasons.active"
    return environment.gpu_state(query, cell.job.device) if cell.device.type == "cuda" else None
