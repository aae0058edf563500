"""The state of a GPU, from a pretended library of the driver; the real one where there is a GPU."""

import re
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from harness.measure import gpu, rates
from harness.run import worker

DEVICE = torch.device("cuda", 0)
STATE = {
    "sm_clock_mhz": [1980],
    "memory_clock_mhz": [2619],
    "gpu_temperature_c": [61],
    "gpu_power_mw": [699_000],
    "throttle_reasons": [0xC],
}


class PretendedNVML:
    """The functions of pynvml that are used, for a GPU that throttles for power and may lack some of them."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, lacks: tuple[str, ...] = ()) -> None:
        self._lacks = lacks
        self._started = False

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
    return monitor.fields()


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
    ],
)
def test_what_a_gpu_does_not_report_is_missing_alone(nvml, lacks, missing) -> None:
    nvml(*lacks)
    words = "; ".join(f"{name}: Not Supported" for name in missing) or None
    assert read() == STATE | dict.fromkeys(missing) | {"nvml": words}
    assert gpu.driver_version() == "580.159.04"


@pytest.mark.parametrize("lacks", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_library_that_cannot_be_used_is_a_word(nvml, lacks) -> None:
    nvml(lacks)
    assert read() == dict.fromkeys(STATE) | {"nvml": "NVML: Not Supported"}
    assert gpu.driver_version() == (None if lacks == "nvmlInit" else "580.159.04")


def test_an_interpreter_without_the_library_is_served(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read() == dict.fromkeys(STATE) | {"nvml": "NVML: nvidia-ml-py is not installed"}
    assert gpu.driver_version() is None


def test_a_library_older_than_a_function_lacks_its_value(nvml, monkeypatch) -> None:
    nvml()
    monkeypatch.delattr(PretendedNVML, "nvmlDeviceGetPowerUsage")
    monkeypatch.delattr(PretendedNVML, "nvmlDeviceGetCurrentClocksEventReasons")
    seen = read()
    assert (seen["gpu_power_mw"], seen["throttle_reasons"]) == (None, [0xC])


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


@pytest.mark.parametrize(("events", "busy_s"), [(EVENTS, 400e-9), ((), None)])
def test_a_gpu_is_busy_while_any_kernel_runs(monkeypatch, events, busy_s) -> None:
    profiler = mock.Mock()
    profiler.profiler.kineto_results.events.return_value = list(events)
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: profiler)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CUDA})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert gpu.busy_s(lambda: None, DEVICE) == busy_s


def test_where_a_gpu_cannot_be_traced_it_is_unknown_how_long_it_is_busy(monkeypatch) -> None:
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CPU})
    assert gpu.busy_s(lambda: None, DEVICE) is gpu.busy_s(lambda: None, torch.device("cpu")) is None


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


@pytest.mark.cuda
def test_the_state_of_a_real_gpu() -> None:
    seen = read()
    assert all(isinstance(seen[name], list) for name in ("sm_clock_mhz", "throttle_reasons")), seen["nvml"]
    assert re.fullmatch(r"[\d.]+", str(gpu.driver_version()))
