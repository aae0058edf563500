"""Sampling, on a clock whose ticks the test decides."""

import dataclasses
import itertools
import math
import statistics
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

from harness.job import Measure
from harness.measure import clock, gpu
from tests.conftest import JOB
from tests.test_gpu import PretendedNVML

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 1)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch):
    """Calls that take the given seconds, one after another, on a clock that stands still otherwise."""
    now = 0.0
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now)

    def calls(durations):
        durations = iter(durations)

        def call() -> None:
            nonlocal now
            now += next(durations)

        return call

    return calls


def measure(**changes) -> Measure:
    sampled = {"budget_s": 1.0, "min_samples": 3, "max_samples": 50, "precision": 0.05}
    return dataclasses.replace(JOB.measure, **(sampled | changes))


def test_the_first_call_and_warm_up_stand_apart(ticking) -> None:
    call = ticking(itertools.chain([0.02, 0.01, 0.01], itertools.repeat(0.01)))
    seen = clock.sample(call, CPU, measure(), 1.0, first_s=0.5)
    assert seen.warmup_s == pytest.approx([0.02, 0.01, 0.01])
    assert seen.times_s == pytest.approx([0.01] * 6)
    assert (seen.sampling_ended, seen.calls_per_sample) == ("precision", 1)


def test_short_calls_are_timed_in_blocks(ticking) -> None:
    seen = clock.sample(ticking(itertools.repeat(1e-5)), CPU, measure(), 1.0, first_s=1e-4)
    assert seen.calls_per_sample == math.ceil(clock.BLOCK_S / 1e-5)
    assert seen.times_s == pytest.approx([1e-5] * 6)


def test_a_result_of_a_block_is_gone_before_the_next_is_computed() -> None:
    alive = weakref.WeakSet()
    seen = []

    def call() -> torch.Tensor:
        seen.append(len(alive))
        result = torch.zeros(3)
        alive.add(result)
        return result

    last = clock.timed(call, CPU, calls=4).result
    assert seen == [0, 0, 0, 0]
    assert list(alive) == [last]


def test_a_slow_call_is_sampled_no_more_than_it_must(ticking) -> None:
    for least in (0, 1):
        seen = clock.sample(ticking(itertools.repeat(30.0)), CPU, measure(min_samples=least), 1.0, first_s=31.0)
        assert (seen.warmup_s, seen.times_s, seen.sampling_ended) == ([], [30.0], "budget")
    seen = clock.sample(ticking(itertools.repeat(30.0)), CPU, measure(min_samples=3), 1.0, first_s=31.0)
    assert seen.times_s == [30.0] * 3


def test_a_call_that_only_its_first_time_is_slow_is_warmed_up_and_sampled(ticking) -> None:
    """Compilation, or a lazy import: the first call says nothing of the others."""
    call = ticking(itertools.chain([0.05, 0.01, 0.01], itertools.repeat(0.01)))
    seen = clock.sample(call, CPU, measure(), 1.0, first_s=20.0)
    assert seen.warmup_s == pytest.approx([0.05, 0.01, 0.01])
    assert (seen.times_s, seen.sampling_ended) == (pytest.approx([0.01] * 6), "precision")


def test_noise_is_sampled_until_the_budget_or_the_maximum(ticking) -> None:
    noise = itertools.cycle([0.01, 0.03])
    assert clock.sample(ticking(noise), CPU, measure(), 1.0, 0.01).sampling_ended == "budget"
    seen = clock.sample(ticking(noise), CPU, measure(max_samples=7), 1e9, 0.01)
    assert (len(seen.times_s), seen.sampling_ended) == (7, "maximum")


@pytest.fixture
def throttling(ticking, monkeypatch: pytest.MonkeyPatch):
    """A pretended GPU. Reading its power takes 1 ms; from the third reading on it throttles."""
    reads = itertools.count(1)
    read_for_1_ms = ticking(itertools.repeat(1e-3))

    class Throttling(PretendedNVML):
        def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
            read_for_1_ms()
            return 700_000

        def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
            return 4 if next(reads) >= 3 else 1

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at_s = clock.time.perf_counter()

        def elapsed_time(self, other: "Event") -> float:
            return 1e3 * (other.at_s - self.at_s)

    monkeypatch.setitem(sys.modules, "pynvml", Throttling())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return ticking


@pytest.mark.parametrize(
    ("call_s", "reasons"),
    [
        (0.03, [1, 1, 4, 4, 4, 4]),
        (0.015, [1, 1, 4]),  # each second sample, since readings are at least 0.02 s apart
    ],
)
def test_the_state_of_a_gpu_is_read_beside_samples_and_outside_the_clock(throttling, call_s, reasons) -> None:
    call = throttling(itertools.repeat(call_s))
    monitor = gpu.Monitor(CUDA)
    seen = clock.sample(call, CUDA, measure(), 1.0, first_s=0.5, monitor=monitor)
    assert seen.times_s == pytest.approx([call_s] * 6)
    assert seen.events_s == pytest.approx([call_s] * 6)
    assert seen.sampling_wall_s == pytest.approx(6 * call_s)
    state = monitor.fields()
    assert (state["throttle_reasons"], state["gpu_power_mw"]) == (reasons, [700_000] * len(reasons))


def test_a_call_without_a_monitor_is_sampled_without_nvml(throttling, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "_started", None)
    assert len(clock.sample(throttling(itertools.repeat(0.01)), CUDA, measure(), 1.0, first_s=0.5).times_s) == 6


@pytest.mark.parametrize(("device", "warmed_s"), [(CPU, 2e-5), (CUDA, clock.CLOCKS_RISE_S)])
def test_a_gpu_is_warmed_up_until_its_clocks_have_risen(throttling, device, warmed_s) -> None:
    called_s = 0.0

    def call() -> None:
        nonlocal called_s
        called_s += 1e-5
        one()

    one = throttling(itertools.repeat(1e-5))
    seen = clock.sample(call, device, measure(), 0.1, first_s=1e-4)
    assert called_s - sum(seen.times_s) * seen.calls_per_sample == pytest.approx(warmed_s, rel=0.01)
    assert len(seen.warmup_s) < 250
    assert (len(seen.times_s), seen.sampling_ended) == (6, "precision")


def test_a_slow_first_call_leaves_no_reading_behind(throttling) -> None:
    call = throttling(itertools.chain([0.05], itertools.repeat(0.03)))
    monitor = gpu.Monitor(CUDA)
    seen = clock.sample(call, CUDA, measure(), 1.0, first_s=20.0, monitor=monitor)
    state = monitor.fields()
    assert {len(state[name]) for name in gpu.READINGS} == {6}
    assert seen.warmup_s[0] == pytest.approx(0.05)
    call = throttling(itertools.repeat(30.0))
    slow = clock.sample(call, CUDA, measure(min_samples=1), 1.0, first_s=31.0, monitor=monitor)
    assert (slow.warmup_s, slow.times_s) == ([], [30.0])
    assert len(monitor.fields()["sm_clock_mhz"]) == 1


def test_the_interval_of_the_median_covers_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (6, 11, 40):
        covered = 0
        for _ in range(2000):
            draw = torch.rand(count, generator=generator).exp().tolist()
            low = math.floor(count / 2 - 0.98 * math.sqrt(count))
            ordered = sorted(draw)
            interval = ordered[low], ordered[-1 - low]
            assert clock.relative_half_width(draw) == pytest.approx(
                (interval[1] - interval[0]) / 2 / statistics.median(draw)
            )
            covered += interval[0] <= math.exp(0.5) <= interval[1]
        assert covered / 2000 > 0.93
    assert clock.relative_half_width([1.0] * 5) == math.inf
