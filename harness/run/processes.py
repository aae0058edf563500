"""The processes below this one: found, ended and counted, whatever sessions and groups they have made.

Linux gives an orphan to its nearest ancestor that has asked for orphans. So a process that has called `adopt_orphans`
has every process below it among its descendants, until they end. Elsewhere only process groups are ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

END_S = 5.0  # how long processes may take to end after SIGKILL: one that waits in a driver may never do so
STEP_S = 0.001  # between two looks at what is left
LISTED = Path("/proc/thread-self/children")  # of every thread there is such a file, if the kernel has them

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Be killed when the thread ends that forked this process (Linux), or at once if `parent` has ended already."""
    signal_at_end_of_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def signal_at_end_of_parent(number: int) -> None:
    """Ask for a signal when the thread ends that started this process (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def descriptor(pid: int) -> int | None:
    """A file descriptor of a child that is readable once the child has ended; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, before 5.3, or forbidden in a container
        return None


def signal_name(number: int) -> str:
    """The name of a signal. Python has none for most of the real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN{number - signal.SIGRTMIN:+d}"


def state(pid: int) -> str:
    """The letter of a process's state (proc(5)): `T` is stopped, `Z` has ended. Empty for no process."""
    return _state_and_parent(pid)[0]


def _state_and_parent(pid: int) -> tuple[str, int]:
    """The letter of a process's state, and its parent; an empty letter and 0 for no process."""
    try:
        letter, parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "", 0
    return letter, int(parent)


def descendants(root: int) -> Iterator[int]:
    """Every process below one, as far as /proc shows them."""
    found = [root]
    while found:
        for child in _children(found.pop()):
            yield child
            found.append(child)


def _children(parent: int) -> Iterator[int]:
    """The children of a process. A kernel without CONFIG_PROC_CHILDREN lists none: there every process is read."""
    if not LISTED.exists():
        pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
        yield from (pid for pid in pids if _state_and_parent(pid)[1] == parent)
        return
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())


def running(grace_s: float) -> int:
    """How many descendants of this process still run after at most `grace_s`, in which they may end by themselves."""
    deadline = time.monotonic() + grace_s
    while not _reap() and time.monotonic() < deadline:
        time.sleep(STEP_S)
    return sum(state(pid) not in ("Z", "") for pid in descendants(os.getpid()))


def end_all(*children: int) -> bool:
    """Kill and reap the groups of children and every descendant of this process; whether none is left after END_S."""
    deadline = time.monotonic() + END_S
    for child in children:
        _kill_group(child)
    while not _reap():
        if time.monotonic() > deadline:
            return False
        kill_below(os.getpid())
        time.sleep(STEP_S)
    return True


def kill_below(root: int) -> None:
    """Kill every process below one, and their groups: a group cannot outrun the signal by forking."""
    for pid in descendants(root):
        with contextlib.suppress(OSError):
            group = os.getpgid(pid)
            if group not in (os.getpgrp(), os.getpgid(root)):
                _kill_group(group)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _kill_group(group: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or was never made
        os.killpg(group, signal.SIGKILL)


def _reap() -> bool:
    """Reap the children that have ended; whether there is no other child."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False
