"""How long a call takes: first call, warm-up until the times are steady, samples until their median is known."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from harness.job import Measure
from harness.measure import environment, ranks
from harness.measure.gpu import Monitor

BLOCK_S = 1e-3  # a sample lasts at least this long: shorter calls are timed in blocks
STEADY = 0.95  # warm-up ends with the first call that takes more than this part of the fastest before it
WARM_UP_SHARE = 0.2  # of the budget at most
CLOCKS_RISE_S = 0.2  # of work, in which an idle GPU raises its clocks


@dataclass(frozen=True)
class Samples:
    """The measured times of a call; the fields of a record under the same names."""

    warmup_s: list[float]  # wall time of the calls before the samples; of a block of calls its mean
    times_s: list[float]  # wall time of a call for each sample; of a block of calls its mean
    events_s: list[float] | None  # the same by CUDA events; None on the CPU
    calls_per_sample: int
    sampling_ended: str  # precision, budget or maximum
    sampling_wall_s: float  # of all samples
    sampling_cpu_s: float  # processor time of the process meanwhile
    sampling_waiting_s: float | None  # the longest that one of its threads waited for a processor; None off Linux


class Timed(NamedTuple):
    """How long a call took, and what the last call of a block returned."""

    wall_s: float
    event_s: float | None  # by CUDA events
    result: Any


class Observer(Protocol):
    """Sees the result of each sample, outside the clock; may hold it until the next sample is taken."""

    def see(self, result: Any) -> None:
        """Take the result of a sample: of a block of calls that of the last one."""

    def release(self) -> None:
        """Free the result."""


class _Sampler:
    """Times calls, shows their results to an observer, and measures the time of observer and monitor."""

    def __init__(
        self, call: Callable[[], object], device: torch.device, observer: Observer | None, monitor: Monitor | None
    ) -> None:
        self._call, self._device, self._observer, self._monitor = call, device, observer, monitor
        self.start()

    def start(self) -> None:
        """Forget all samples, and start the clocks of the sampling, without the time of observer and monitor."""
        self.times: list[float] = []
        self.events: list[float] = []
        if self._monitor is not None:
            self._monitor.start()
        self._began_waiting = environment.threads_waiting_s()
        self._began_wall, self._began_cpu = time.perf_counter(), time.process_time()
        self._observer_wall_s, self._observer_cpu_s = 0.0, 0.0
        self._began_waited = ranks.waited_s()

    def elapsed(self) -> tuple[float, float]:
        """Wall and processor seconds since the start, without those of observer and monitor and of other ranks."""
        waited_s = [now - before for now, before in zip(ranks.waited_s(), self._began_waited, strict=True)]
        wall_s = time.perf_counter() - self._began_wall - self._observer_wall_s - waited_s[0]
        cpu_s = time.process_time() - self._began_cpu - self._observer_cpu_s - waited_s[1]
        return wall_s, cpu_s

    def waiting_s(self) -> float | None:
        """The longest that one thread was ready and waited for a processor since the start, the observer included."""
        waited = environment.threads_waiting_s()
        if waited is None or self._began_waiting is None:
            return None
        return max((waited - self._began_waiting).values(), default=0.0)

    def release(self) -> None:
        """Let the observer free the last result."""
        if self._observer is not None:
            self._observer.release()

    def sample(self, calls: int) -> float:
        """Take a sample of so many calls; returns the seconds of one call."""
        self.release()
        wall, event, result = timed(self._call, self._device, calls)
        self.times.append(wall)
        if event is not None:
            self.events.append(event)
        began_wall, began_cpu = time.perf_counter(), time.process_time()
        if self._monitor is not None:
            self._monitor.read()
        if self._observer is not None:
            self._observer.see(result)
        self._observer_wall_s += time.perf_counter() - began_wall
        self._observer_cpu_s += time.process_time() - began_cpu
        return wall


def sample(
    call: Callable[[], object],
    device: torch.device,
    measure: Measure,
    budget_s: float,
    first_s: float,
    observer: Observer | None = None,
    monitor: Monitor | None = None,
) -> Samples:
    """Time a call until the median is known to `measure.precision`, or `budget_s` or `max_samples` is reached.

    - `first_s` is the time of the first call, which is not counted.
    - Where a call takes more than the budget, the second is a sample, without warm-up.
    - At least `measure.min_samples` samples are taken, whatever they cost.
    - On a GPU the warm-up lasts until its clocks have risen, which does not count in the budget.
    - Results are freed outside the clock, except for those within a block of calls.
    - The time of observer and monitor counts neither as sampling nor in the budget.
    - The monitor is read just after samples; its fields are those of the sampling, without the warm-up.
    """
    warm_up: list[float] = []
    sampler = _Sampler(call, device, observer, monitor)
    if first_s > budget_s and sampler.sample(calls=1) <= budget_s:  # only the first call was slow
        warm_up = sampler.times
        sampler.release()
        sampler.start()
    steady = bool(sampler.times)
    while not steady and sum(warm_up) < WARM_UP_SHARE * budget_s:
        warm_up.append(timed(call, device).wall_s)
        steady = len(warm_up) > 1 and warm_up[-1] > STEADY * min(warm_up[:-1])
    spent = sum(warm_up) + sum(sampler.times)
    if not sampler.times:
        warm_up += raise_clocks(call, device, _block(min([first_s, *warm_up])), spent)
        sampler.start()
    times = sampler.times
    calls = _block(min([first_s, *warm_up, *times]))
    ended = "maximum"
    while len(times) < max(measure.max_samples, measure.min_samples):
        if len(times) >= measure.min_samples:
            if relative_half_width(times) <= measure.precision:
                ended = "precision"
                break
            if spent >= budget_s:
                ended = "budget"
                break
        spent += sampler.sample(calls) * calls
    wall_s, cpu_s = sampler.elapsed()
    return Samples(warm_up, times, sampler.events or None, calls, ended, wall_s, cpu_s, sampler.waiting_s())


def _block(call_s: float) -> int:
    """How many calls a sample takes."""
    return max(1, math.ceil(BLOCK_S / call_s))


def raise_clocks(
    call: Callable[[], object], device: torch.device, calls: int = 1, warmed_s: float = 0.0
) -> list[float]:
    """Keep a GPU at work until it has raised its clocks, by blocks of `calls`; does nothing on the CPU.

    `warmed_s` is how long it has worked before. Returns the seconds of a call, the mean of each block.
    """
    times: list[float] = []
    while device.type == "cuda" and warmed_s + sum(times) * calls < CLOCKS_RISE_S:
        times.append(timed(call, device, calls).wall_s)
    return times


def relative_half_width(times: list[float]) -> float:
    """Half-width of the median's 95 % interval over the median; infinite below six samples.

    The interval lies between two order statistics, whatever the distribution (binomial, normal approximation).
    `scipy.stats.quantile_test` gives the exact one, but would disturb the measured process: importing scipy.stats takes
    1.4 s and 59 MiB, and each test 2.5 ms between two samples, where this takes 3 microseconds for 100 samples.
    """
    count = len(times)
    if count < 6:
        return math.inf
    low = math.floor(count / 2 - 0.98 * math.sqrt(count))
    ordered = sorted(times)
    return (ordered[-1 - low] - ordered[low]) / 2 / statistics.median(ordered)


def timed(call: Callable[[], object], device: torch.device, calls: int = 1) -> Timed:
    """Seconds of a call, the mean over `calls`, from an idle device to an idle device; by CUDA events too on a GPU.

    Of several ranks, all begin together, and the times are those of the slowest.
    Where a call forks and returns twice, the copy of the process ends here.
    """
    process = os.getpid()
    events = None
    if device.type == "cuda":
        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    synchronize(device)
    ranks.meet()
    start = time.perf_counter()
    if events is not None:
        events[0].record()
    for _ in range(calls - 1):
        call()  # its result is freed at once: it must not be there while the next is computed
    result = call()
    if events is not None:
        events[1].record()
    synchronize(device)
    wall_s = (time.perf_counter() - start) / calls
    if os.getpid() != process:
        os._exit(0)
    event_s = None if events is None else ranks.slowest(events[0].elapsed_time(events[1]) / 1e3 / calls)
    return Timed(ranks.slowest(wall_s), event_s, result)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is idle; does nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
