"""How long a call takes: the first apart, warm-up until calm, then samples until their median is known well enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from harness.job import Measure

BLOCK_S = 1e-3  # a sample lasts at least this long: shorter calls are timed in blocks
CALM = 0.95  # warm-up ends with the first call that takes more than this part of the fastest before it
WARM_UP_SHARE = 0.2  # of the budget at most


@dataclass(frozen=True)
class Samples:
    """What was seen of a call; the fields of a record under the same names."""

    warmup_s: list[float]  # the calls after the first, until calm
    times_s: list[float]  # wall time of a call, a sample; of a block of calls its mean
    events_s: list[float] | None  # the same by CUDA events; None on the CPU
    calls_per_sample: int
    sampling_ended: str  # precision, budget or maximum
    sampling_wall_s: float  # of all samples
    sampling_cpu_s: float  # processor time of the process meanwhile

    fields = asdict


def sample(
    call: Callable[[], object], device: torch.device, measure: Measure, budget_s: float, first_s: float
) -> Samples:
    """Time a call until the median is known to `measure.precision`, or `budget_s` or `max_samples` is reached.

    `first_s` is what the first call took, which is not counted. A call that alone takes more than the budget needs no
    warm-up after it: the second is then a sample. At least `measure.min_samples` samples are taken, whatever they cost.
    A result is freed outside the clock, but for all results of a block except the last.
    """
    warm_up: list[float] = []
    times: list[float] = []
    events: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    if first_s > budget_s:  # all calls are as slow, or only the first was: the second tells
        wall, event = timed(call, device)
        slow = wall > budget_s
        (times if slow else warm_up).append(wall)
        events += [event] if slow and event is not None else []
    calm = bool(times)
    while not calm and sum(warm_up) < WARM_UP_SHARE * budget_s:
        warm_up.append(timed(call, device)[0])
        calm = len(warm_up) > 1 and warm_up[-1] > CALM * min(warm_up[:-1])
    spent = sum(warm_up) + sum(times)
    calls = max(1, math.ceil(BLOCK_S / min([first_s, *warm_up, *times])))
    if not times:
        began, cpu = time.perf_counter(), time.process_time()
    ended = "maximum"
    while len(times) < max(measure.max_samples, measure.min_samples):
        if len(times) >= measure.min_samples:
            if known_to(times) <= measure.precision:
                ended = "precision"
                break
            if spent >= budget_s:
                ended = "budget"
                break
        wall, event = timed(call, device, calls)
        times.append(wall)
        spent += wall * calls
        if event is not None:
            events.append(event)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Samples(warm_up, times, events or None, calls, ended, wall, cpu)


def known_to(times: list[float]) -> float:
    """Half-width of the median's 95 % interval over the median; infinite below six samples.

    The interval lies between two order statistics, whatever the distribution (binomial, normal approximation).
    """
    count = len(times)
    if count < 6:
        return math.inf
    low = math.floor(count / 2 - 0.98 * math.sqrt(count))
    ordered = sorted(times)
    return (ordered[-1 - low] - ordered[low]) / 2 / statistics.median(ordered)


def timed(call: Callable[[], object], device: torch.device, calls: int = 1) -> tuple[float, float | None]:
    """Seconds a call, over `calls` of them, from an idle device to an idle device; by CUDA events too on a GPU."""
    on_gpu = device.type == "cuda"
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if on_gpu else (None, None)
    synchronize(device)
    start = time.perf_counter()
    if begin is not None:
        begin.record()
    for _ in range(calls):
        result = call()
    if end is not None:
        end.record()
    synchronize(device)
    wall = (time.perf_counter() - start) / calls
    del result
    event = begin.elapsed_time(end) / 1e3 / calls if begin is not None and end is not None else None
    return wall, event


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is idle; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
