"""Methods that harm their own process, their files or the machine: each is a row with a reason; the next cell runs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from harness import record
from harness.run.launcher import Launcher
from tests.conftest import JOB
from tests.reliability.cases import Case
from tests.reliability.descendants import job

LATE_S = 20.0  # after its limit, with the start of a server on a busy machine
LOG_BYTES = 2 << 20


@cache
def shared() -> Launcher:
    """One launcher for all attempts, so that each also shows that the cells before it left no harm."""
    return Launcher()


def is_a_row(method: str, status: str, words: str, folder: Path, **changes: Any) -> None:
    """The cell ends in time with this status and message, its log is short, and another cell is right after it."""
    began = time.monotonic()
    asked = job(method, memory_limit_gb=2.0, **changes)
    path = shared().run(asked, folder)
    seen = record.read(path)
    assert seen["status"] == status, f"{seen['status']}: {seen['message']}"
    assert words in (seen["message"] or ""), seen["message"]
    assert time.monotonic() - began < asked.limit_s + LATE_S, "it took too long"
    log = path.with_name("log.txt")
    assert not log.is_file() or log.stat().st_size < LOG_BYTES, f"log.txt holds {log.stat().st_size} bytes"
    after = record.read(shared().run(job("right"), folder))
    assert after["status"] == "ok", f"the next cell: {after['message']}"


NO_ANSWER = "server process did not answer"
OVERWRITTEN = "the file of the time pass's result was overwritten: "
EXPECTED = {
    "ends_by_a_nameless_signal": ("crashed", "signal SIGRTMIN+6, without a result"),
    "answers_no_json": ("crashed", NO_ANSWER),
    "answers_an_object": ("crashed", NO_ANSWER),
    "answers_for_the_server": ("crashed", NO_ANSWER),
    "answers_without_an_end": ("crashed", NO_ANSWER),
    "kills_its_group": ("crashed", "SIGKILL, which the harness did not send"),
    "kills_its_session": ("crashed", "SIGKILL, which the harness did not send"),
    "prints_for_ever": ("timeout", "limit_s=5"),
    "prints_much": ("crashed", "exit status 3, without a result; it last printed: the last line"),
    "result_of_no_json": ("crashed", OVERWRITTEN + "it is not JSON"),
    "result_of_wrong_types": ("crashed", OVERWRITTEN + "the result is no record: worked_s should be float"),
    "result_of_foreign_fields": ("crashed", OVERWRITTEN + "it holds 'method', which no pass writes"),
    "result_of_strange_numbers": ("crashed", OVERWRITTEN + "timed is {'first': 3}"),
    "result_of_another_length": ("crashed", OVERWRITTEN + "timed is {'first': [1.0]"),
    "result_of_nulls": ("ok", ""),
    "result_of_other_passes": ("ok", ""),
    "result_is_a_list": ("crashed", OVERWRITTEN + "it holds list, not an object"),
    "result_is_a_folder": ("crashed", OVERWRITTEN + "Is a directory"),
    "result_is_a_pipe": ("crashed", OVERWRITTEN + "it is no regular file"),
    "result_is_a_link": ("crashed", OVERWRITTEN + "Too many levels of symbolic links"),
    "result_is_gone": ("crashed", "exit status 0, without a result"),
    "log_is_a_pipe": ("crashed", "exit status 0, without a result"),
    "grows": ("oom", "smaller chunk_size"),
    "grows_in_python": ("oom", "smaller chunk_size"),
    "starts_threads": ("error", "can't start new thread"),
    "raises_interrupt": ("error", "KeyboardInterrupt"),
    "raises_exit": ("error", "SystemExit: 0"),
    "raises_base": ("error", "BaseException: of no kind"),
    "raises_generator_exit": ("error", "GeneratorExit"),
    "raises_unprintable": ("error", "Unprintable: (its text cannot be had: ZeroDivisionError)"),
    "raises_number": ("error", "Number: (its text cannot be had: TypeError)"),
    "raises_memory": ("oom", "MemoryError"),
    "raises_recursion": ("error", "RecursionError"),
    "raises_much": ("error", "50,000,000 characters"),
    "raises_controls": ("error", r"ValueError: \x1b[2J\ud800\x00"),
}

CHANGED = "server process was changed ({})"
EXPECTED |= {
    "limits_its_server": ("crashed", CHANGED.format("RLIMIT_FSIZE")),
    "limits_the_descriptors_of_its_server": ("crashed", "RLIMIT_NOFILE"),
    "limits_the_memory_of_its_server": ("crashed", CHANGED.format("RLIMIT_AS")),
    "slows_its_server": ("crashed", "priority"),
    "idles_its_server": ("crashed", CHANGED.format("sched_setscheduler")),
    "pins_its_server": ("crashed", CHANGED.format("sched_setaffinity")),
    "offers_its_server": ("crashed", CHANGED.format("oom_score_adj")),
}
DAMAGED = "the cell's folder was damaged while the time pass ran: "
DAMAGES = {
    "folder_is_a_file": "Not a directory",
    "folder_is_gone": "No such file or directory",
    "folder_is_moved": "No such file or directory",
    "folder_is_a_link": "it was replaced, or job.json was changed",
    "record_is_a_folder": "record.json is a folder",
    "job_is_changed": "it was replaced, or job.json was changed",
}


def is_recorded_in_a_new_folder(method: str, words: str, folder: Path) -> None:
    """The cell is a crashed row in a new folder, and so it is when it is resumed; the next cell runs."""
    is_a_row(method, "crashed", DAMAGED + words, folder, limit_s=60.0)
    (path,) = [path for path in folder.glob("*/record.json") if path.is_file() and record.read(path)["message"]]
    assert path.parent.name.endswith(".2"), path.parent.name
    again = shared().resume(job(method, memory_limit_gb=2.0, limit_s=60.0), folder)
    assert again is not None
    seen = record.read(again)
    assert (seen["status"], seen["attempt"]) == ("crashed", 2), f"{seen['status']}, attempt {seen['attempt']}"


def is_immutable(folder: Path) -> None:
    try:
        is_recorded_in_a_new_folder("folder_is_immutable", "Operation not permitted", folder)
    finally:
        subprocess.run(["chattr", "-R", "-i", str(folder)], check=True)


def follows_no_link(folder: Path) -> None:
    is_a_row("log_is_a_link", "ok", "", folder, passes=JOB.passes, limit_s=60.0)
    assert not (folder / "linked").exists(), "the log was written through a link"


def changes_the_reference(method: str, folder: Path) -> None:
    """The row of the culprit says so, and the next method is compared with the reference computed anew."""
    changes = {"passes": ("agreement",), "limit_s": 60.0}
    is_a_row(method, "crashed", "the file of the reference was changed or removed while", folder, **changes)
    after = record.read(shared().run(job("right", **changes), folder))
    assert after["status"] == "ok", f"the next cell: {after['message']}"


def can_make_immutable() -> bool:
    """Whether a folder can be made immutable here, as by root on ext4."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for change in ("+i", "-i"):
                subprocess.run(["chattr", change, folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


GROUPS = Path("/sys/fs/cgroup")


def exceeds_a_container(folder: Path) -> None:
    """The system kills the pass when its group exceeds 600 MiB: that is out of memory, whoever set the limit."""
    with _group("memory", "memory.limit_in_bytes", str(600 << 20)) as group:
        is_a_row("grows_in_group", "oom", "since memory ran out", folder, method_options={"group": str(group)})


def cannot_be_killed(folder: Path) -> None:
    """A pass that no signal reaches, as in a driver, is left behind, and the next cell has another server."""
    with _group("freezer", "freezer.state", "THAWED") as group:
        is_a_row("freezes_itself", "timeout", "cannot be killed", folder, method_options={"group": str(group)})


@contextmanager
def _group(controller: str, setting: str, value: str) -> Iterator[Path]:
    """A group (cgroup v1) with a setting, which is set once more at the end."""
    group = GROUPS / controller / f"harness-{uuid.uuid4().hex}"
    group.mkdir()
    (group / setting).write_text(value)
    try:
        yield group
    finally:
        (group / setting).write_text(value)
        while (group / "tasks").read_text():
            time.sleep(0.05)
        group.rmdir()


CASES: dict[str, Case] = {
    name: partial(is_a_row, name, *expected, limit_s=5.0 if expected[0] == "timeout" else 60.0)
    for name, expected in EXPECTED.items()
}
CASES |= {
    name: partial(is_a_row, name, "wrong", "beyond the range of float64", limit_s=60.0, passes=JOB.passes)
    for name in ("vast", "vaster", "one_vast_entry")
}
CASES |= {name: partial(is_recorded_in_a_new_folder, name, words) for name, words in DAMAGES.items()}
CASES |= {name: partial(changes_the_reference, name) for name in ("overwrites_the_reference", "removes_the_references")}
CASES["log_is_a_link"] = follows_no_link
if can_make_immutable():
    CASES["folder_is_immutable"] = is_immutable
if os.access(GROUPS / "memory", os.W_OK):
    CASES["exceeds_a_container"] = exceeds_a_container
if os.access(GROUPS / "freezer", os.W_OK):
    CASES["cannot_be_killed"] = cannot_be_killed
