"""The driver's management library (NVML) for the pretended GPUs: `pynvml` with functions that need no driver.

Of ten readings in a row a process sees its GPU throttled at those in the middle (`THROTTLED`). The counters show that
heat holds the clocks down in HEAT_SHARE of all time, and power never.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from types import SimpleNamespace

THROTTLED = range(4, 7)
THERMAL = 0x20  # the reason: nvmlClocksThrottleReasonSwThermalSlowdown
HEAT_SHARE = 0.3


def begin(uuids: Sequence[str]) -> None:
    """Replace the functions of pynvml that ask the driver about its GPUs."""
    import pynvml

    reads = itertools.count()

    def handle(uuid: str | bytes) -> int:
        known = uuid.decode() if isinstance(uuid, bytes) else uuid
        if known not in uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuids.index(known)

    def reasons(_handle: int) -> int:
        return THERMAL if next(reads) % 10 in THROTTLED else 0

    def violations(_handle: int, policy: int) -> SimpleNamespace:
        share = {pynvml.NVML_PERF_POLICY_POWER: 0.0, pynvml.NVML_PERF_POLICY_THERMAL: HEAT_SHARE}[policy]
        return SimpleNamespace(violationTime=int(share * time.perf_counter_ns()))

    def clock(_handle: int, kind: int) -> int:
        return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind]

    pynvml.nvmlInit = pynvml.nvmlShutdown = lambda: None
    pynvml.nvmlSystemGetDriverVersion = lambda: "580.00"
    pynvml.nvmlDeviceGetHandleByUUID = handle
    pynvml.nvmlDeviceGetClockInfo = clock
    pynvml.nvmlDeviceGetTemperature = pynvml.nvmlDeviceGetTemperatureV = lambda _handle, _sensor: 60
    pynvml.nvmlDeviceGetPowerUsage = lambda _handle: 350_000
    pynvml.nvmlDeviceGetViolationStatus = violations
    pynvml.nvmlDeviceGetCurrentClocksEventReasons = reasons
    pynvml.nvmlDeviceGetCurrentClocksThrottleReasons = reasons
