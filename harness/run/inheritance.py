"""What the system keeps of a process and hands on to its children, such as its limits and its priority.

A pass can change most of it in its parent, the server. Every later pass would then inherit the change.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# RLIMIT_OFILE is an older name of RLIMIT_NOFILE.
LIMITS = [name for name in vars(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
FILES = ("oom_score_adj", "timerslack_ns", "coredump_filter", "autogroup", "cgroup")  # in /proc/self
SCHEDULING = ("sched_getscheduler", "sched_getparam", "sched_getaffinity")  # of os, where the system has them


def state() -> dict[str, Any]:
    """What children of this process inherit, by name. What cannot be read is the text of the error."""
    readers: dict[str, Callable[[], Any]] = {
        name: partial(resource.getrlimit, getattr(resource, name)) for name in LIMITS
    }
    readers |= {name: Path("/proc/self", name).read_text for name in FILES}
    readers |= {name.replace("get", "set"): partial(getattr(os, name), 0) for name in SCHEDULING if hasattr(os, name)}
    readers |= {"priority": partial(os.getpriority, os.PRIO_PROCESS, 0), "umask": _umask, "cwd": _folder}
    return {name: _read(reader) for name, reader in readers.items()}


def changes(before: dict[str, Any]) -> str:
    """The names of what differs now from an earlier `state`, between commas; empty for none."""
    now = state()
    return ", ".join(name for name in before if now[name] != before[name])


def _read(reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except OSError as error:
        return str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _folder() -> tuple[int, int]:
    """The working folder, which may have no path any more."""
    status = Path().stat()
    return status.st_dev, status.st_ino
