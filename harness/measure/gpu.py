"""The state of a GPU while it is measured, from its driver's management library (NVML)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

Reading = tuple[list[str], str | None]  # functions of NVML, of which the first that works is used, and their constant
Reader = Callable[[], Any]

READINGS: dict[str, Reading] = {  # by the field of a record
    "throttle_reasons": (  # first, since the GPU is idle again once a sample ends
        ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
        None,
    ),
    "sm_clock_mhz": (["nvmlDeviceGetClockInfo"], "NVML_CLOCK_SM"),
    "memory_clock_mhz": (["nvmlDeviceGetClockInfo"], "NVML_CLOCK_MEM"),
    "gpu_temperature_c": (["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"], "NVML_TEMPERATURE_GPU"),
    "gpu_power_mw": (["nvmlDeviceGetPowerUsage"], None),
}
# The same of what NVML counts: how long the clocks have been held down, in nanoseconds.
COUNTERS: dict[str, Reading] = {
    "power_throttled_s": (["nvmlDeviceGetViolationStatus"], "NVML_PERF_POLICY_POWER"),
    "heat_throttled_s": (["nvmlDeviceGetViolationStatus"], "NVML_PERF_POLICY_THERMAL"),
}
INTERVAL_S = 0.02  # at least, between two readings: short samples do not wait for one each


class NVMLUnavailable(Exception):
    """The management library cannot be used; the text gives the reason."""


class Monitor:
    """What a GPU does while a call is sampled. On the CPU it reads nothing.

    `start` begins a sampling, and `fields` ends it. In between, `read` is called just after samples and outside the
    clock. Where the GPU does not report a value, only that value is missing.
    """

    def __init__(self, device: torch.device) -> None:
        self._readers: dict[str, Reader] = {}
        self._counters: dict[str, Reader] = {}
        self._missing: dict[str, str] = {}
        if device.type == "cuda":
            try:
                self._readers, self._counters = _readers(device, READINGS), _readers(device, COUNTERS)
            except NVMLUnavailable as unavailable:
                self._missing["NVML"] = str(unavailable)
        self.start()

    def start(self) -> None:
        """Forget all readings, and note what the counters show."""
        self._seen: dict[str, list[int]] = {name: [] for name in self._readers}
        self._next_s = -math.inf
        self._began_s, self._began = time.perf_counter(), self._values(self._counters)

    def read(self) -> None:
        """Read the state once more, unless the last reading was less than INTERVAL_S ago."""
        if time.perf_counter() < self._next_s:
            return
        for name, value in self._values(self._readers).items():
            self._seen[name].append(value)
        self._next_s = time.perf_counter() + INTERVAL_S

    def fields(self) -> dict[str, Any]:
        """Fields of a record.

        READINGS are lists with a value for each reading, and COUNTERS are seconds out of the `gpu_watched_s` since
        `start`; each is None where it is not known. `nvml_missing` says what that is and why.
        """
        ended, watched_s = self._values(self._counters), time.perf_counter() - self._began_s
        known = {name: self._seen[name] or None for name in self._readers} | {
            name: max(0, status.violationTime - self._began[name].violationTime) / 1e9 for name, status in ended.items()
        }
        missing = "; ".join(f"{name}: {reason}" for name, reason in self._missing.items())
        known["gpu_watched_s"] = watched_s if ended else None
        return dict.fromkeys([*READINGS, *COUNTERS]) | known | {"nvml_missing": missing or None}

    def _values(self, readers: dict[str, Reader]) -> dict[str, Any]:
        """What these readers return; one that the GPU does not serve is removed."""
        found: dict[str, Any] = {}
        for name, reader in list(readers.items()):
            try:
                found[name] = reader()
            except NVMLUnavailable as unavailable:
                self._missing[name] = str(unavailable)
                del readers[name]
        return found


def driver_version() -> str | None:
    """The version of the NVIDIA driver; None where it cannot be read."""
    try:
        nvml = _started()
        return _first(nvml, ["nvmlSystemGetDriverVersion"])
    except NVMLUnavailable:
        return None


def _readers(device: torch.device, readings: dict[str, Reading]) -> dict[str, Reader]:
    """A function for each of READINGS or COUNTERS, which raises NVMLUnavailable where the GPU does not report it."""
    nvml = _started()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # since CUDA_VISIBLE_DEVICES renumbers the GPUs
    gpu = _first(nvml, ["nvmlDeviceGetHandleByUUID"], uuid)

    def reader(names: list[str], constant: str | None) -> Reader:
        arguments = [gpu] if constant is None else [gpu, getattr(nvml, constant)]
        return lambda: _first(nvml, names, *arguments)

    return {name: reader(*reading) for name, reading in readings.items()}


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
