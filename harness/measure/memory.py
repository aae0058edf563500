"""Two peaks of memory: that of the tensors, which is exact and repeatable, and that of the whole process.

Each peak is taken in a fresh process around one call, since a second call in one process reuses freed pages. Other
methods do not serve: sampling the resident size misses short peaks, and tracemalloc sees no tensors.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import _enable_record_function  # pyright: ignore[reportPrivateImportUsage]

MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt(3)


def tensor_peak(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """`tensor_peak_bytes`, the peak of live tensors in one call above those at its start, and its `allocations`.

    On the CPU the peak is the running sum of the profiler's memory events. These see every allocation through torch's
    allocator, and no autograd node. On a GPU it is the peak of what was requested of torch's allocator. There,
    `allocated_peak_bytes` is that of its blocks, which are multiples of 512 bytes, and `reserved_peak_bytes` that of
    the memory which it holds of the GPU. CUDA's own allocator (`backend:cudaMallocAsync`) counts no requests: there
    `tensor_peak_missing` gives the reason, and peak and allocations are not among the fields.
    """
    gc.collect()
    if device.type == "cuda":
        return _gpu_peaks(call, device)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    profiler.start()
    _enable_record_function(False)  # memory events alone: the same ones, and ten times cheaper to collect
    result = call()
    _enable_record_function(True)
    profiler.stop()
    del result
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda change: change[0])
    peak = max(itertools.accumulate((size for _, size in changes), initial=0))
    return {"tensor_peak_bytes": peak, "allocations": sum(size > 0 for _, size in changes)}


def _gpu_peaks(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # or else the call would use what has been reserved before
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_stats(device)
    result = call()
    torch.cuda.synchronize(device)
    after = torch.cuda.memory_stats(device)
    del result

    def above_start(name: str) -> int:
        return after[f"{name}_bytes.all.peak"] - before[f"{name}_bytes.all.current"]

    blocks = {
        "allocated_peak_bytes": above_start("allocated"),
        "reserved_peak_bytes": above_start("reserved"),
    }
    backend = torch.cuda.get_allocator_backend()
    if backend != "native":
        return blocks | {"tensor_peak_missing": f"the allocator {backend} does not count what is requested of it"}
    allocations = after["allocation.all.allocated"] - before["allocation.all.allocated"]
    return {"tensor_peak_bytes": above_start("requested"), **blocks, "allocations": allocations}


def prepare_process_peak() -> None:
    """Make glibc return freed memory at once, so that the resident size follows the memory in use.

    This slows vectorised methods about 3x. Use it only in the pass that measures the process's peak.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 65536)


def process_peak(call: Callable[[], Any]) -> int | None:
    """The peak of the resident set in one call above that at its start, in bytes; None where /proc lacks clear_refs."""
    clear_refs = Path("/proc/self/clear_refs")
    if not clear_refs.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear_refs.write_text("5")  # resets VmHWM to the present resident size: proc(5)
    before = _status_kib("VmRSS")
    result = call()
    peak = _status_kib("VmHWM")
    del result
    return (peak - before) * 1024


def limit(size_gb: float, device: torch.device) -> None:
    """Let this process allocate no more than `size_gb` (10^9 bytes) beyond what it has, on pain of out of memory.

    On a GPU this limits what torch's allocator reserves there, and no memory of the CPU. On the CPU it limits private
    memory (RLIMIT_DATA, setrlimit(2)).
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        reserved = torch.cuda.memory_reserved(device)  # which the fraction counts too
        torch.cuda.set_per_process_memory_fraction(min(1.0, (reserved + size_gb * 1e9) / total), device)
    elif sys.platform == "linux":
        import resource

        size = _status_kib("VmData") * 1024 + int(size_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _status_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(f"/proc/self/status has no {name}")
