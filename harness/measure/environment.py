"""Where a cell ran: hardware, versions, and the state of the harness's own files."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.measure.gpu import driver_version
from harness.record.commit import commit


def describe(device: str, code: str | None) -> dict[str, Any]:
    """The environment fields of a record; the commit is that of the folder `code`, if given."""
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    own_commit = commit(Path(code)) if code else {}
    return (
        machine()
        | own_commit
        | {
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "cuda": torch.version.cuda if on_gpu else None,
            "driver": driver_version() if on_gpu else None,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
            "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    )


@cache
def machine() -> dict[str, Any]:
    """The fields that are the same for every process on this machine; a server reads them once for all its cells."""
    return commit(Path(__file__).parents[2]) | {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "blas": next(iter(re.findall(r"BLAS_INFO=(\w+)", torch.__config__.show())), None),
        "governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def cpu_waiting_s() -> float | None:
    """Seconds since boot in which some process waited for a processor: Linux's pressure stall information."""
    pressure = _line("/proc/pressure/cpu")
    return None if pressure is None else int(pressure.rpartition("total=")[2]) / 1e6


def threads_waiting_s() -> Counter[str] | None:
    """Seconds in which each thread of this process was ready and waited for a processor; None except on Linux."""
    try:
        files = [Path(thread.path, "schedstat") for thread in os.scandir("/proc/self/task")]
    except OSError:
        return None
    lines = {file.parent.name: _line(str(file)) for file in files}
    return Counter({thread: int(line.split()[1]) / 1e9 for thread, line in lines.items() if line is not None}) or None


def _line(path: str) -> str | None:
    """The first line of a file of the system; None where the file is missing or empty."""
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
