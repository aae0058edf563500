"""Processes that a method starts and leaves: none survives its pass, nor the harness, however that ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.run.launcher import Launcher
from tests.conftest import JOB
from tests.reliability.cases import ROOT, Case

MARK = "HARNESS_TESTED_PROCESS"
END_S = 15.0  # in which everything has ended after the harness was killed

# A harness that runs one cell, without Hydra.
PROGRAM = """
import sys, pathlib
from harness.job import Job, Measure
from harness.run.launcher import Launcher
with Launcher() as launcher:
    launcher.run({job}, pathlib.Path({folder!r}))
"""


def job(method: str, **changes: Any) -> Job:
    """A cell of a method of `tests.hostile` that takes only times."""
    changes = {"limit_s": 5.0, "passes": ("time",), **changes}
    return dataclasses.replace(JOB, method=method, target=f"tests.hostile.{method}", **changes)


@contextmanager
def marked() -> Iterator[str]:
    """A marker in the environment of all processes that are started meanwhile."""
    os.environ[MARK] = uuid.uuid4().hex
    try:
        yield os.environ[MARK]
    finally:
        del os.environ[MARK]


def survivors(marker: str, within_s: float = 0.0) -> list[int]:
    """The processes but this one that carry a marker, unless all have ended within that time."""
    deadline = time.monotonic() + within_s
    while True:
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _carries(pid, marker)]  # noqa: PTH208
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _carries(pid: int, marker: str) -> bool:
    try:
        return pid != os.getpid() and marker.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ends_with_its_pass(method: str, status: str, words: str, folder: Path) -> None:
    """The cell has this status and message; then only the server and its keeper are left, and at the end nothing."""
    with marked() as marker:
        with Launcher() as launcher:
            asked = job(method)
            seen = record.read(launcher.run(asked, folder))
            assert seen["status"] == status, seen
            assert words in (seen["message"] or ""), seen["message"]
            left = survivors(marker)
            assert len(left) <= 2, f"{left} are left"
        assert not survivors(marker), f"{survivors(marker)} are left after the end"


def ends_with_the_harness(harm: Callable[[int, int], None], folder: Path) -> None:
    """Nothing is left after the harness was killed while a daemon runs, and the server or keeper was harmed."""
    asked = repr(job("daemon_and_sleep", method_options={"notes": str(folder)}, limit_s=60.0))
    program = PROGRAM.format(job=asked, folder=str(folder))
    with marked() as marker:
        harness = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        server = _noted(folder / "server", harness)
        harm(server, parent(server))
    finally:
        harness.kill()
        harness.wait()
    left = survivors(marker, END_S)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"{left} were left"


def _noted(path: Path, harness: subprocess.Popen[bytes]) -> int:
    """The number in a file, once the file is there."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert harness.poll() is None, "the harness has ended early"
        assert time.monotonic() < deadline, "the method was not called within 60 s"
        time.sleep(0.02)
    return int(path.read_text())


def _nothing(server: int, keeper: int) -> None:
    return


def _stop_server(server: int, keeper: int) -> None:
    os.kill(server, signal.SIGSTOP)


def _stop_both(server: int, keeper: int) -> None:
    os.kill(keeper, signal.SIGSTOP)
    os.kill(server, signal.SIGSTOP)


def _kill_server(server: int, keeper: int) -> None:
    os.kill(server, signal.SIGKILL)


LEFT = "still running at the end of the time pass, and killed"
OF_PASS = {
    "leaves_a_child": ("ok", LEFT),
    "leaves_a_session": ("ok", LEFT),
    "leaves_a_daemon": ("ok", LEFT),
    "leaves_a_stopped_process": ("ok", LEFT),
    "leaves_a_respawning_process": ("ok", LEFT),
    "leaves_a_printing_process": ("ok", LEFT),
    "returns_twice": ("ok", ""),
    "closes_and_sleeps": ("timeout", "limit_s=5"),
    "ignores_and_sleeps": ("timeout", "limit_s=5"),
    "stops_itself": ("timeout", "limit_s=5"),
    "stops_its_server": ("crashed", "server process was stopped (SIGSTOP)"),
    "ends_its_server_by_a_nameless_signal": ("crashed", "server process was killed (SIGRTMIN+6)"),
    "kills_its_server": ("crashed", "server process was killed (SIGKILL)"),
    "stops_the_keeper": ("crashed", "server process did not answer"),
}
HARMS = {
    "harness killed": _nothing,
    "harness killed, server stopped": _stop_server,
    "harness killed, server and keeper stopped": _stop_both,
    "harness and server killed": _kill_server,
}

CASES: dict[str, Case] = {
    **{name: partial(ends_with_its_pass, name, *expected) for name, expected in OF_PASS.items()},
    **{name: partial(ends_with_the_harness, harm) for name, harm in HARMS.items()},
}
