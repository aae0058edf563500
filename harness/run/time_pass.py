"""The time pass: a first call, samples of further calls, and whether the timed results can be believed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from harness.measure import clock, environment, ranks
from harness.measure.gpu import Monitor
from harness.problems.binding import BoundMethod
from harness.truth import caching
from harness.truth.result_recorder import ResultRecorder
from harness.truth.results import is_approximation
from harness.truth.side_effects import SideEffects

Fields = Iterator[dict[str, Any]]  # of a record, as they become known


def time_pass(bound: BoundMethod, side_effects: SideEffects, began: float) -> Fields:
    """The fields of the time pass; a `status` ends them.

    `began` is the start of the process by `time.perf_counter()`, from which the time limit counts. Two more fields are
    for the launcher: `timed` (`harness.truth.timed_results`), and `running`, which says whether the method or the
    harness itself runs after the samples (`harness.truth.caching`). Outside the clock the pass also looks for side
    effects of the first call and of the others, and for results that were not computed: these with one process only.
    """
    with tempfile.TemporaryDirectory() as compiled:  # so that the first call compiles, whatever was compiled before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        side_effects.remember(bound)
        for fields in _method_calls(bound, side_effects, began):
            yield fields
            if "status" in fields:
                return
    yield {"gradient_s": _gradient_s(bound)}


def _method_calls(bound: BoundMethod, side_effects: SideEffects, began: float) -> Fields:
    """The first call, then samples with what the machine did meanwhile, then a few calls at other points."""
    measure, recorder, monitor = bound.job.measure, ResultRecorder(bound), Monitor(bound.device)
    waited, began_s = environment.cpu_waiting_s(), time.perf_counter()
    first_s, _, result = clock.timed(bound.call, bound.device)
    kind = {"approximation": True} if is_approximation(result) else {}
    yield side_effects.fault(bound) or {"first_s": first_s} | kind
    recorder.see(result)
    del result
    recorder.release()
    samples = clock.sample(bound.call, bound.device, measure, measure.budget_s, first_s, recorder, monitor)
    seen: dict[str, Any] = asdict(samples) | monitor.fields()
    now = environment.cpu_waiting_s()
    if waited is not None and now is not None:
        seen["cpu_pressure"] = (now - waited) / (time.perf_counter() - began_s)
    yield seen
    yield side_effects.fault(bound) or {}
    timed = recorder.fields()
    yield {"timed": timed}
    if ranks.count() > 1:  # the search for a cache decides by times that differ between ranks
        return
    left_s = bound.job.limit_s - (time.perf_counter() - began)
    fault = yield from caching.fault(bound, samples.times_s, recorder.last, left_s)
    yield {"timed": {"fault": fault} | timed} | caching.HARNESS_RUNS


def _gradient_s(bound: BoundMethod) -> list[float]:
    """Samples of the time of one gradient, in a tenth of the budget."""

    def gradient() -> Tensor:
        theta = bound.problem.theta.detach().requires_grad_()
        return torch.autograd.grad(bound.problem.loss(theta), theta)[0]

    measure = bound.job.measure
    first_s = clock.timed(gradient, bound.device).wall_s
    return clock.sample(gradient, bound.device, measure, measure.budget_s / 10, first_s).times_s
