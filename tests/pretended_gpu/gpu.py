"""What a build of torch for the CPU lacks of torch.cuda, for the pretended GPUs."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

from tests.pretended_gpu import library, nvml

COUNT = 2  # of devices, as in gpu.cpp
TOTAL_BYTES = 80 << 30  # of a device's memory
STATISTICS = ("allocation", "allocated_bytes", "requested_bytes", "reserved_bytes")  # in the order of gpu.cpp
OWN = (__file__,)  # whose lines are not reported

waits = Counter[tuple[str, str]]()  # what made the CPU wait for a GPU, and the line of this repository


def begin() -> None:
    """Load the library and torch, and give torch.cuda its functions. Raises RuntimeError where torch is loaded."""
    if "torch" in sys.modules:
        raise RuntimeError("the pretended GPU must be loaded before torch is imported")
    loaded = library.load()
    import torch

    assert not hasattr(torch._C, "_cuda_getDeviceCount"), "this torch has functions of CUDA itself"
    loaded.pretend_begin(_report_wait)
    driver = _Driver(loaded)
    for name in vars(_Driver):
        if name.startswith("_cuda_"):
            setattr(torch._C, name, getattr(driver, name))
    torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = driver.exchange_device
    torch.cuda._get_device_properties = _properties
    torch.cuda._is_in_bad_fork = driver.is_in_bad_fork
    torch.cuda._cudart = SimpleNamespace(cudaMemGetInfo=driver.free_and_total)
    torch.cuda.Event = torch.cuda.streams.Event = _Event
    nvml.begin([f"GPU-{_properties(index).uuid}" for index in range(COUNT)])


def _properties(index: int) -> SimpleNamespace:
    return SimpleNamespace(
        name="Pretended GPU",
        uuid=f"00000000-0000-0000-0000-00000000000{index}",
        total_memory=TOTAL_BYTES,
        L2_cache_size=50 << 20,
        major=9,
        minor=0,
        multi_processor_count=132,
    )


class _Driver:
    """The functions of torch._C that torch.cuda calls, under the same names."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._loaded = loaded
        self._process: int | None = None  # which has initialized CUDA
        self._fractions = [1.0] * COUNT  # of each device's memory that this process may reserve
        loaded.pretend_limit.argtypes = [ctypes.c_int, ctypes.c_int64]

    def _cuda_init(self) -> None:
        import torch

        self._process = os.getpid()
        self._loaded.pretend_initialize()
        torch.cuda.default_generators = tuple(torch.Generator(f"cuda:{index}") for index in range(COUNT))

    def is_in_bad_fork(self) -> bool:
        """Whether a process that had initialized CUDA was forked into this one."""
        return self._process not in (None, os.getpid())

    def _cuda_getDeviceCount(self) -> int:
        return COUNT

    def _cuda_getDevice(self) -> int:
        return self._loaded.pretend_device()

    def _cuda_setDevice(self, device: int) -> None:
        self.exchange_device(device)

    def exchange_device(self, device: int) -> int:
        """Make a device the current one, unless it is negative; returns the one before."""
        return self._loaded.pretend_exchange_device(device) if device >= 0 else self._cuda_getDevice()

    def _cuda_synchronize(self) -> None:
        _synchronized_s[self._cuda_getDevice()] = time.perf_counter()

    def _cuda_memoryStats(self, device: int) -> dict[str, Any]:
        numbers = (ctypes.c_int64 * (4 * len(STATISTICS)))()
        self._loaded.pretend_memory(device, numbers)
        parts = ("current", "peak", "allocated", "freed")
        return {
            name: {"all": dict(zip(parts, numbers[4 * place :], strict=False))} for place, name in enumerate(STATISTICS)
        }

    def _cuda_resetPeakMemoryStats(self, device: int) -> None:
        self._loaded.pretend_reset_peak(device)

    def _cuda_emptyCache(self) -> None:
        self._loaded.pretend_empty_cache()

    def _cuda_getAllocatorBackend(self) -> str:
        return "native"

    def _cuda_setMemoryFraction(self, fraction: float, device: int) -> None:
        self._fractions[device] = fraction
        self._loaded.pretend_limit(device, int(fraction * TOTAL_BYTES))

    def _cuda_getMemoryFraction(self, device: int) -> float:
        return self._fractions[device]

    def _cuda_getArchFlags(self) -> str:
        return "sm_90"

    def _cuda_getCurrentRawStream(self, device: int) -> int:
        return 0

    def free_and_total(self, device: int) -> tuple[int, int]:
        """Bytes of a device's memory."""
        return TOTAL_BYTES - self._cuda_memoryStats(device)["reserved_bytes"]["all"]["current"], TOTAL_BYTES


_synchronized_s = [0.0] * COUNT  # when the CPU last waited for all work of each device


class _Event:
    """A CUDA event of the current device. It is complete once that device has been synchronized after it."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._index, self._recorded_s = 0, 0.0

    def record(self, stream: object = None) -> None:
        import torch

        self._index, self._recorded_s = torch.cuda.current_device(), time.perf_counter()

    def query(self) -> bool:
        return self._recorded_s <= _synchronized_s[self._index]

    def synchronize(self) -> None:
        _synchronized_s[self._index] = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        """Milliseconds between two events."""
        if not (self.query() and end.query()):
            raise RuntimeError("CUDA error: device not ready")
        return (end._recorded_s - self._recorded_s) * 1e3


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)
def _report_wait(operation: bytes) -> None:
    """Count a wait at the innermost line of this repository."""
    frame = sys._getframe().f_back
    line = "a backward pass" if frame is None else "elsewhere"  # backward passes run in threads of their own
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(library.ROOT)) and "site-packages" not in file and file not in OWN:
            line = f"{os.path.relpath(file, library.ROOT)}:{frame.f_lineno}"
            break
        frame = frame.f_back
    waits[operation.decode().removeprefix("aten::"), line] += 1
