"""The state of a GPU while it is measured, from its driver's management library (NVML), and how long it computes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity

# For each field of a record: functions of NVML, of which the first that works is used, and the constant they are given.
READINGS = {
    "sm_clock_mhz": (["nvmlDeviceGetClockInfo"], "NVML_CLOCK_SM"),
    "memory_clock_mhz": (["nvmlDeviceGetClockInfo"], "NVML_CLOCK_MEM"),
    "gpu_temperature_c": (["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"], "NVML_TEMPERATURE_GPU"),
    "gpu_power_mw": (["nvmlDeviceGetPowerUsage"], None),
    "throttle_reasons": (
        ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
        None,
    ),
}


class NVMLUnavailable(Exception):
    """The management library cannot be used; the text gives the reason."""


class Monitor:
    """Reads the state of a GPU whenever `read` is called, as just after each sample. On the CPU it reads nothing.

    A reading takes about a millisecond, so that it must stay outside the clock. A value that the GPU does not report is
    missing alone.
    """

    def __init__(self, device: torch.device) -> None:
        self._readers: dict[str, Callable[[], int]] = {}
        self._seen: dict[str, list[int]] = {}
        self._missing: dict[str, str] = {}
        if device.type == "cuda":
            try:
                self._readers = _readers(device)
            except NVMLUnavailable as unavailable:
                self._missing["NVML"] = str(unavailable)
            self._seen = {name: [] for name in self._readers}

    def read(self) -> None:
        """Read the state once more."""
        for name, reader in list(self._readers.items()):
            try:
                self._seen[name].append(reader())
            except NVMLUnavailable as unavailable:
                self._missing[name] = str(unavailable)
                del self._readers[name], self._seen[name]

    def fields(self) -> dict[str, Any]:
        """Fields of a record: READINGS, each a value for each reading or None, and `nvml`, what is missing and why."""
        missing = "; ".join(f"{name}: {reason}" for name, reason in self._missing.items())
        return {name: self._seen.get(name) or None for name in READINGS} | {"nvml": missing or None}


def busy_s(call: Callable[[], object], device: torch.device) -> float | None:
    """Seconds in which a GPU computes or copies during one call; in the rest of the call's time it waits for the CPU.

    Events before and after the call do not show this, since the time between them has the same gaps. None on the CPU,
    and where torch's profiler cannot trace the GPU.
    """
    if device.type != "cuda" or ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        return None
    profiler = torch.profiler.profile(activities=[ProfilerActivity.CUDA])
    profiler.start()
    call()
    torch.cuda.synchronize(device)
    profiler.stop()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    on_gpu = (event for event in events if event.device_type() == DeviceType.CUDA and not event.is_user_annotation())
    busy_ns, until_ns = 0, 0
    for start_ns, end_ns in sorted((event.start_ns(), event.end_ns()) for event in on_gpu):
        busy_ns += max(0, end_ns - max(start_ns, until_ns))  # kernels of several streams may overlap
        until_ns = max(until_ns, end_ns)
    return busy_ns / 1e9 or None


def driver_version() -> str | None:
    """The version of the NVIDIA driver; None where it cannot be read."""
    try:
        nvml = _started()
        return _first(nvml, ["nvmlSystemGetDriverVersion"])
    except NVMLUnavailable:
        return None


def _readers(device: torch.device) -> dict[str, Callable[[], int]]:
    """A function for each field of READINGS, which raises NVMLUnavailable where the GPU does not report the value."""
    nvml = _started()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # since CUDA_VISIBLE_DEVICES renumbers the GPUs
    gpu = _first(nvml, ["nvmlDeviceGetHandleByUUID"], uuid)

    def reader(names: list[str], constant: str | None) -> Callable[[], int]:
        arguments = [gpu] if constant is None else [gpu, getattr(nvml, constant)]
        return lambda: _first(nvml, names, *arguments)

    return {name: reader(*reading) for name, reading in READINGS.items()}


def _started() -> ModuleType:
    """The library, started. The end of the process stops it."""
    try:
        import pynvml
    except ImportError as error:  # another `interpreter` may have torch alone
        raise NVMLUnavailable("nvidia-ml-py is not installed") from error
    _first(pynvml, ["nvmlInit"])
    return pynvml


def _first(nvml: ModuleType, names: list[str], *arguments: Any) -> Any:
    """What the first of these functions of NVML returns that does; raises NVMLUnavailable where none does.

    A driver lacks functions that are newer than it, and a package those that are newer than that.
    """
    reason = ""
    for name in names:
        try:
            return getattr(nvml, name)(*arguments)
        except (nvml.NVMLError, AttributeError) as error:
            reason = str(error) or type(error).__name__
    raise NVMLUnavailable(reason)
