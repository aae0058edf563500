"""Whether a process that was killed by SIGKILL had run out of memory: the system itself says so only to its log."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from resource import struct_rusage

LARGE = 0.5  # of the machine's memory: a process of that size was killed for its size, even where nothing is counted


def system_kills() -> int | None:
    """How many processes the system has killed for their memory since it started; None where it does not count them.

    Those that exceeded the limit of a container (cgroup) are among them.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def is_likely(kills_before: int | None, usage: struct_rusage) -> bool:
    """Whether the system has killed for memory since `kills_before`, or the killed process was a large one."""
    kills = system_kills()
    if kills is not None and kills_before is not None and kills > kills_before:
        return True
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak_bytes > LARGE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
