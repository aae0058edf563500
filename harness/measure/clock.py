"""How long a call takes: the first apart, warm-up until calm, then samples until their median is known well enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

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


class Timed(NamedTuple):
    """What a call took, and what the last one of a block returned."""

    wall_s: float
    event_s: float | None  # by CUDA events
    result: Any


class Watcher(Protocol):
    """Sees what each sample returned, outside the clock; holds it until the next is taken, if at all."""

    def see(self, result: Any) -> None:
        """Take the result of a sample, of a block the last one."""

    def release(self) -> None:
        """Let go of it."""


class _Sampler:
    """Times calls, shows their results to a watcher, and knows what that cost."""

    def __init__(self, call: Callable[[], object], device: torch.device, watcher: Watcher | None) -> None:
        self._call, self._device, self._watcher = call, device, watcher
        self.times: list[float] = []
        self.events: list[float] = []
        self.beside = [0.0, 0.0]  # wall and processor time of the watcher

    def release(self) -> None:
        """Let the watcher free the last result."""
        if self._watcher is not None:
            self._watcher.release()

    def sample(self, calls: int) -> float:
        """Take a sample; its seconds a call."""
        self.release()
        wall, event, result = timed(self._call, self._device, calls)
        self.times.append(wall)
        if event is not None:
            self.events.append(event)
        if self._watcher is not None:
            began, cpu = time.perf_counter(), time.process_time()
            self._watcher.see(result)
            self.beside[0] += time.perf_counter() - began
            self.beside[1] += time.process_time() - cpu
        return wall


def sample(
    call: Callable[[], object],
    device: torch.device,
    measure: Measure,
    budget_s: float,
    first_s: float,
    watcher: Watcher | None = None,
) -> Samples:
    """Time a call until the median is known to `measure.precision`, or `budget_s` or `max_samples` is reached.

    `first_s` is what the first call took, which is not counted. A call that alone takes more than the budget needs no
    warm-up after it: the second is then a sample. At least `measure.min_samples` samples are taken, whatever they cost.
    A result is freed outside the clock, but for all results of a block except the last. The time of the watcher counts
    neither as sampling nor in the budget.
    """
    warm_up: list[float] = []
    taken = _Sampler(call, device, watcher)
    times = taken.times
    began, cpu = time.perf_counter(), time.process_time()
    if first_s > budget_s and taken.sample(calls=1) <= budget_s:  # only the first was slow: the second tells
        warm_up.append(times.pop())
        taken.events.clear()
        taken.release()
    calm = bool(times)
    while not calm and sum(warm_up) < WARM_UP_SHARE * budget_s:
        warm_up.append(timed(call, device).wall_s)
        calm = len(warm_up) > 1 and warm_up[-1] > CALM * min(warm_up[:-1])
    spent = sum(warm_up) + sum(times)
    calls = max(1, math.ceil(BLOCK_S / min([first_s, *warm_up, *times])))
    if not times:
        began, cpu = time.perf_counter(), time.process_time()
        taken.beside = [0.0, 0.0]
    ended = "maximum"
    while len(times) < max(measure.max_samples, measure.min_samples):
        if len(times) >= measure.min_samples:
            if known_to(times) <= measure.precision:
                ended = "precision"
                break
            if spent >= budget_s:
                ended = "budget"
                break
        spent += taken.sample(calls) * calls
    wall = time.perf_counter() - began - taken.beside[0]
    cpu = time.process_time() - cpu - taken.beside[1]
    return Samples(warm_up, times, taken.events or None, calls, ended, wall, cpu)


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


def timed(call: Callable[[], object], device: torch.device, calls: int = 1) -> Timed:
    """Seconds a call, over `calls` of them, from an idle device to an idle device; by CUDA events too on a GPU."""
    on_gpu = device.type == "cuda"
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if on_gpu else (None, None)
    synchronize(device)
    start = time.perf_counter()
    if begin is not None:
        begin.record()
    for _ in range(calls - 1):
        call()  # whose result is freed at once: it must not be there while the next is computed
    result = call()
    if end is not None:
        end.record()
    synchronize(device)
    wall = (time.perf_counter() - start) / calls
    event = begin.elapsed_time(end) / 1e3 / calls if begin is not None and end is not None else None
    return Timed(wall, event, result)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is idle; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
