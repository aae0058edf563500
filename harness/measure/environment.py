"""Where a cell ran: hardware, versions, and the state of the harness's own files."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.record.commit import commit


def describe(device: str, code: str | None) -> dict[str, Any]:
    """The environment fields of a record; the commit is that of the folder `code`, if given."""
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return (
        machine()
        | (commit(Path(code)) if code else {})
        | {
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "cuda": torch.version.cuda if on_gpu else None,
            "driver": gpu_state("driver_version", device) if on_gpu else None,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
            "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    )


@cache
def machine() -> dict[str, Any]:
    """What is the same for every process on this machine, in this environment; a server asks once for all its cells."""
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


def gpu_state(query: str, device: str) -> str | None:
    """What nvidia-smi says of a GPU, such as `clocks.sm,clocks_event_reasons.active`; None where it says nothing."""
    properties = torch.cuda.get_device_properties(device)  # by UUID: CUDA_VISIBLE_DEVICES renumbers them
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_waiting_s() -> float | None:
    """Seconds since boot in which some process waited for a processor: Linux's pressure stall information."""
    said = _line("/proc/pressure/cpu")
    return None if said is None else int(said.rpartition("total=")[2]) / 1e6


def _line(path: str) -> str | None:
    """The first line of a file of the system; None where there is none."""
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
