"""The state of a GPU, from a pretended library of the driver; the real one where there is a GPU."""

import re
import statistics
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from harness.measure import busy, clock, gpu, memory, rates
from harness.problems.torch_messages import explain
from harness.run import worker

DEVICE = torch.device("cuda", 0)
STATE = {
    "sm_clock_mhz": [1980],
    "memory_clock_mhz": [2619],
    "gpu_temperature_c": [61],
    "gpu_power_mw": [699_000],
    "throttle_reasons": [0xC],
    "power_throttled_s": 0.007,
    "heat_throttled_s": 0.0,
}


class PretendedNVML:
    """The functions of pynvml that are used, for a GPU that throttles for power and may lack some of them.

    Its counter of power has grown by 7 ms whenever it is read.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 3, 4

    class NVMLError(Exception):
        pass

    def __init__(self, lacks: tuple[str, ...] = ()) -> None:
        self._lacks = lacks
        self._started = False
        self._violated_ns = {self.NVML_PERF_POLICY_POWER: 10**15, self.NVML_PERF_POLICY_THERMAL: 10**9}

    def _require(self, name: str) -> None:
        assert self._started or name == "nvmlInit", "asked before the library was started"
        if name in self._lacks:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        self._require("nvmlInit")
        self._started = True

    def nvmlSystemGetDriverVersion(self) -> str:
        self._require("nvmlSystemGetDriverVersion")
        return "580.159.04"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._require("nvmlDeviceGetHandleByUUID")
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, domain: int) -> int:
        assert handle == "GPU-1234"
        self._require(f"nvmlDeviceGetClockInfo {domain}")
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[domain]

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        self._require("nvmlDeviceGetTemperatureV")
        return 61

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._require("nvmlDeviceGetTemperature")
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._require("nvmlDeviceGetPowerUsage")
        return 699_000

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> SimpleNamespace:
        assert handle == "GPU-1234"
        self._require(f"nvmlDeviceGetViolationStatus {policy}")
        if policy == self.NVML_PERF_POLICY_POWER:
            self._violated_ns[policy] += 7_000_000
        return SimpleNamespace(violationTime=self._violated_ns[policy])

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        self._require("nvmlDeviceGetCurrentClocksEventReasons")
        return 0xC

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        self._require("nvmlDeviceGetCurrentClocksThrottleReasons")
        return 0xC


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch):
    """Use a pretended library that lacks these functions."""

    def use(*lacks: str) -> PretendedNVML:
        pretended = PretendedNVML(lacks)
        monkeypatch.setitem(sys.modules, "pynvml", pretended)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
        return pretended

    return use


def read() -> dict[str, object]:
    monitor = gpu.Monitor(DEVICE)
    monitor.read()
    return without_its_time(monitor)


def without_its_time(monitor: gpu.Monitor) -> dict[str, object]:
    """Its fields but for `gpu_watched_s`, which is there where a counter is."""
    seen = monitor.fields()
    counted = any(seen[name] is not None for name in gpu.COUNTERS)
    watched_s = seen.pop("gpu_watched_s")
    assert (0 < watched_s < 60) if counted else (watched_s is None)
    return seen


REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


@pytest.mark.parametrize(
    ("lacks", "missing"),
    [
        ((), []),
        (REASONS[:1], []),  # an old driver has the old names
        (REASONS[1:], []),  # and a new one may have the new names alone
        (("nvmlDeviceGetTemperatureV",), []),
        (("nvmlDeviceGetTemperature",), []),
        (REASONS, ["throttle_reasons"]),
        (("nvmlDeviceGetClockInfo 2",), ["memory_clock_mhz"]),
        (("nvmlDeviceGetPowerUsage",), ["gpu_power_mw"]),
        (("nvmlDeviceGetViolationStatus 4",), ["heat_throttled_s"]),
    ],
)
def test_only_what_a_gpu_does_not_report_is_missing(nvml, lacks, missing) -> None:
    nvml(*lacks)
    words = "; ".join(f"{name}: Not Supported" for name in missing) or None
    assert read() == STATE | dict.fromkeys(missing) | {"nvml_missing": words}
    assert gpu.driver_version() == "580.159.04"


@pytest.mark.parametrize("lacks", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_library_that_cannot_be_used_is_a_word(nvml, lacks) -> None:
    nvml(lacks)
    assert read() == dict.fromkeys(STATE) | {"nvml_missing": "NVML: Not Supported"}
    assert gpu.driver_version() == (None if lacks == "nvmlInit" else "580.159.04")


def test_an_interpreter_without_the_library_is_served(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read() == dict.fromkeys(STATE) | {"nvml_missing": "NVML: nvidia-ml-py is not installed"}
    assert gpu.driver_version() is None


def test_a_library_older_than_a_function_lacks_its_value(nvml, monkeypatch) -> None:
    nvml()
    monkeypatch.delattr(PretendedNVML, "nvmlDeviceGetPowerUsage")
    monkeypatch.delattr(PretendedNVML, "nvmlDeviceGetCurrentClocksEventReasons")
    seen = read()
    assert (seen["gpu_power_mw"], seen["throttle_reasons"]) == (None, [0xC])


def test_a_value_that_a_gpu_stops_to_report_is_missing(nvml, monkeypatch) -> None:
    pretended = nvml()
    monitor = gpu.Monitor(DEVICE)
    monitor.read()
    pretended._lacks = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetViolationStatus 4")
    monkeypatch.setattr(gpu, "INTERVAL_S", 0.0)
    monitor._next_s = 0.0
    monitor.read()
    seen = monitor.fields()
    assert (seen["gpu_power_mw"], seen["heat_throttled_s"], seen["sm_clock_mhz"]) == (None, None, [1980] * 2)
    assert seen["nvml_missing"] == "gpu_power_mw: Not Supported; heat_throttled_s: Not Supported"


def test_a_sampling_that_starts_anew_has_its_own_readings(nvml) -> None:
    nvml()
    monitor = gpu.Monitor(DEVICE)
    monitor.read()
    monitor.read()  # too soon
    assert monitor.fields()["sm_clock_mhz"] == [1980]
    monitor.start()
    monitor.read()
    assert without_its_time(monitor) == STATE | {"nvml_missing": None}


def test_on_the_cpu_nothing_is_read(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = gpu.Monitor(torch.device("cpu"))
    monitor.read()
    assert set(monitor.fields().values()) == {None}


def test_the_functions_that_are_used_are_there() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in vars(PretendedNVML):
        assert name.startswith("_") or hasattr(pynvml, name), name


def event(start_ns: int, end_ns: int, kind: DeviceType = DeviceType.CUDA, annotation: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        start_ns=lambda: start_ns,
        end_ns=lambda: end_ns,
        device_type=lambda: kind,
        is_user_annotation=lambda: annotation,
    )


EVENTS = (
    event(500, 700),
    event(100, 200),
    event(150, 300),  # of another stream
    event(160, 170),
    event(0, 1000, DeviceType.CPU),
    event(0, 1000, annotation=True),  # what the user marked, gaps included
)


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pretended profiler, whose first trace shows a slow GPU; the list tells what was done in what order."""
    done: list[str] = []

    def profile(activities: object) -> mock.MagicMock:
        events = EVENTS if done.count("trace") else [event(0, 10**9)]
        done.append("trace")
        profiler = mock.MagicMock()
        profiler.__enter__.return_value = profiler
        profiler.profiler.kineto_results.events.return_value = list(events)
        return profiler

    monkeypatch.setattr(busy, "raise_clocks", lambda call, device: done.append("raise clocks"))
    monkeypatch.setattr(torch.profiler, "profile", profile)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CUDA})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return done


def busy_fields(job, call=lambda: None, operations: int | None = 1, spent_s: float = 1.0) -> dict[str, object]:
    """Of a cell with a time limit of 30 s."""
    return worker._gpu_busy(mock.Mock(job=job(), call=call, device=DEVICE), operations, spent_s)


def test_a_gpu_is_busy_while_any_kernel_runs(tracing, job) -> None:
    assert busy_fields(job) == {"gpu_busy_s": pytest.approx(400e-9)}
    assert tracing == ["raise clocks", "trace", "trace"]


def test_where_a_call_is_not_traced_the_cell_is_not_lost(tracing, job, monkeypatch) -> None:
    many = busy_fields(job, operations=200_000)["gpu_busy_missing"]
    assert many == "a call has 200,000 operations; calls of more than 100,000 are not traced"
    late = busy_fields(job, spent_s=10.0)["gpu_busy_missing"]
    assert late == "the time limit leaves too little room to trace the call"
    assert tracing == []

    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert "out of memory" in str(busy_fields(job, fails)["gpu_busy_missing"])
    monkeypatch.setattr(torch.profiler, "profile", mock.Mock(side_effect=AssertionError))
    assert busy_fields(job) == {"gpu_busy_missing": "AssertionError"}
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CPU})
    assert busy_fields(job) == {"gpu_busy_missing": "this build of torch cannot trace a GPU"}


def test_a_trace_without_work_on_the_gpu_is_no_measurement(tracing, job, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EVENTS", ())
    assert busy_fields(job) == {"gpu_busy_missing": "torch's profiler saw no work on the GPU"}


def test_the_gpu_of_a_job_becomes_the_current_one(monkeypatch, job) -> None:
    """Or else events, streams and handles of cuBLAS would be those of cuda:0."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert worker._begin(job(device="cuda:1")) == torch.device("cuda", 1)
    worker._begin(job(device="cpu"))
    assert chosen == [torch.device("cuda", 1)]


def test_the_matrices_of_the_rates_are_random(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(rates, "GEMM_SIZE", {"cpu": 50})
    monkeypatch.setattr(rates, "WRITTEN_BYTES", {"cpu": 50})
    monkeypatch.setattr(torch, "mm", lambda a, b, out: seen.append((a.unique().numel(), b.unique().numel())))
    rates.measure(torch.device("cpu"), torch.float64)
    assert set(seen) == {(2500, 2500)}


# ---- with a real GPU: python -m pytest -m cuda


def busy_share(call) -> float:
    """Of the time of one call."""
    clock.raise_clocks(call, DEVICE)
    usual_s = statistics.median(clock.timed(call, DEVICE).wall_s for _ in range(9))
    return busy.busy_s(call, DEVICE, None) / usual_s


@pytest.mark.cuda
def test_the_state_of_a_real_gpu() -> None:
    seen = read()
    assert all(isinstance(seen[name], list) for name in ("sm_clock_mhz", "throttle_reasons")), seen["nvml_missing"]
    assert re.fullmatch(r"[\d.]+", str(gpu.driver_version()))


@pytest.mark.cuda
def test_the_counters_of_a_real_gpu_count_seconds() -> None:
    monitor, began_s = gpu.Monitor(DEVICE), time.perf_counter()
    a = torch.randn(4096, 4096, device=DEVICE)
    clock.raise_clocks(lambda: a @ a, DEVICE)
    seen = monitor.fields()
    most_s = time.perf_counter() - began_s + 0.1  # the driver may renew a counter a little later
    for name in gpu.COUNTERS:
        if seen[name] is None:
            assert name in seen["nvml_missing"]
        else:
            assert 0 <= seen[name] <= most_s


@pytest.mark.cuda
def test_a_large_product_keeps_a_real_gpu_busy() -> None:
    a = torch.randn(4096, 4096, device=DEVICE)
    assert 0.9 < busy_share(lambda: a @ a) < 1.1


@pytest.mark.cuda
def test_a_loop_of_tiny_kernels_leaves_a_real_gpu_waiting() -> None:
    x = torch.ones(1, device=DEVICE)

    def loop() -> None:
        for _ in range(1000):
            torch.add(x, x).mul(x).sub(x)

    assert 0 < busy_share(loop) < 0.5


@pytest.mark.cuda
def test_a_sweep_on_a_real_gpu(run) -> None:
    seen = run(device="cuda", target="methods.vmap_hvp.hessian", passes=("time", "exact", "agreement"))
    assert seen["status"] == "ok", seen["message"]
    assert seen["tensor_peak_bytes"] > seen["output_bytes"]
    assert (seen["gpu_busy_missing"], seen["tensor_peak_missing"]) == (None, None)
    assert 0 < seen["gpu_busy_s"] < 2 * statistics.median(seen["times_s"])


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_of_two_real_gpus(run) -> None:
    seen = run(device="cuda:1", target="methods.vmap_hvp.hessian", passes=("time", "exact", "agreement"))
    assert seen["status"] == "ok", seen["message"]
    assert seen["tensor_peak_bytes"] > seen["output_bytes"]  # counted on cuda:1
    assert all(event > 0.5 * wall for event, wall in zip(seen["events_s"], seen["times_s"], strict=True))


@pytest.mark.cuda
def test_a_real_gpu_runs_out_of_memory_at_the_limit(run) -> None:
    asked = {"device": "cuda", "target": "tests.faulty.one_gigabyte", "passes": ("time",)}
    seen = run(memory_limit_gb=0.5, **asked)
    assert seen["status"] == "oom", seen["message"]
    seen = run(memory_limit_gb=3.0, **asked)
    assert seen["status"] == "ok", seen["message"]


@pytest.mark.cuda
def test_the_limit_of_a_real_gpu_is_above_what_is_reserved() -> None:
    torch.cuda.empty_cache()
    memory.limit(0.5, DEVICE)
    try:
        held = torch.empty(4 * 10**8, dtype=torch.uint8, device=DEVICE)
        with pytest.raises(torch.OutOfMemoryError) as error:
            torch.empty(2 * 10**8, dtype=torch.uint8, device=DEVICE)
        assert explain(error.value)[0] == "oom"
        del held
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
