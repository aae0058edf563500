"""Processes, logs and results of hostile methods: the quick part of `tests.reliability`."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.record import StorageError, storing
from harness.run import outcome, processes, written
from harness.run.child_log import FIRST_BYTES, LAST_BYTES, ChildLog
from harness.run.client import LaunchError, ServerProcess
from harness.run.launcher import Launcher
from tests.processes import ROOT
from tests.reliability import hostile_methods
from tests.reliability.descendants import LEFT


@pytest.mark.parametrize(
    ("method", "status", "words"),
    [
        ("leaves_a_daemon", "ok", LEFT),
        ("returns_twice", "ok", ""),
        ("closes_and_sleeps", "timeout", "limit_s=3"),
        ("stops_its_server", "crashed", "server process was stopped (SIGSTOP)"),
        ("kills_its_group", "crashed", "SIGKILL, which the harness did not send"),
        ("ends_by_a_nameless_signal", "crashed", "signal SIGRTMIN+6"),
        ("ends_its_server_by_a_nameless_signal", "crashed", "server process was killed (SIGRTMIN+6)"),
        ("answers_for_the_server", "crashed", "server process did not answer"),
        ("limits_its_server", "crashed", "server process was changed (RLIMIT_FSIZE), by the method"),
    ],
)
def test_what_a_method_does_to_processes_is_a_row(run, method: str, status: str, words: str) -> None:
    seen = run(target=f"tests.hostile.{method}", passes=("time",), limit_s=3.0)
    assert seen["status"] == status, seen["message"]
    assert words in (seen["message"] or "")


@pytest.mark.parametrize("name", ["folder_is_a_file", "record_is_a_folder", "removes_the_references", "log_is_a_link"])
def test_what_a_method_does_to_the_files_of_the_harness_is_a_row(name: str, tmp_path: Path) -> None:
    hostile_methods.CASES[name](tmp_path)


def test_a_disk_that_cannot_be_written_is_no_damage(launcher: Launcher, job, tmp_path: Path, monkeypatch) -> None:
    def full(folder: Path) -> None:
        with storing(folder):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.run.folders.require_room", full)
    with pytest.raises(StorageError, match="Not a directory"):
        launcher.run(job(target="tests.hostile.folder_is_a_file", passes=("time",)), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "a folder was left"


def test_a_process_whose_parent_has_ended_before_it_could_ask_for_a_signal_ends() -> None:
    program = """
import os, time
from harness.run import processes
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.001)
    processes.end_with_parent(parent)
    os.write(1, b"it runs on")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"", "its end closes the pipe"


def test_a_result_that_no_record_can_hold_is_wrong_and_not_overwritten(run) -> None:
    seen = run(target="tests.hostile.one_vast_entry")
    assert (seen["status"], seen["relative_error"]) == ("wrong", None), seen["message"]
    assert "beyond the range of float64" in seen["message"]


def test_a_server_that_is_closed_while_it_starts_is_a_launch_error(job, tmp_path: Path) -> None:
    server = ServerProcess(sys.executable, None, 1, "default")
    closing = threading.Timer(0.1, server.close)
    closing.start()
    for _ in range(2):  # the second time it is closed already
        with pytest.raises(LaunchError, match="cannot run cells"):
            server.wait_until_ready()
        closing.join()
    assert "server process did not answer" in server.ask(job(), "time", tmp_path)["message"]


@pytest.mark.parametrize("listed", [processes.LISTED, Path("/proc/none")])
def test_descendants_are_found_with_and_without_the_kernels_lists(listed: Path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "LISTED", listed)
    program = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        assert {child.pid, sleeper} <= {*processes.descendants(os.getpid())}
        assert [*processes.descendants(child.pid)] == [sleeper]
        processes.kill_below(child.pid)


def test_a_log_keeps_the_beginning_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with ChildLog(str(path)) as log:
        for _ in range(100):
            os.write(log.writing, b"x" * (1 << 15))
            log.copy()
        os.write(log.writing, b"\nthe last line\n")
        log.close_writing()
    assert path.stat().st_size < FIRST_BYTES + LAST_BYTES + 100
    assert "bytes are left out" in path.read_text()
    assert written.last_line(path) == "the last line"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{ not json", "not JSON"),
        ("[]", "holds list"),
        ('{"params": "many"}', "params should be int"),
        ('{"status": "fine"}', "its status is 'fine'"),
        ('{"dtype": "float32"}', "'dtype', which no pass writes"),
        ('{"evil": 1}', "'evil', which no pass writes"),
        ('{"timed": {"first": [1], "last": "x", "products": []}}', "timed is"),
        ('{"checked": 3}', "checked is 3"),
        (f'{{"timed": {{"first": {31 * [0.0]}, "last": {32 * [0.0]}, "products": []}}}}', "timed is"),
        (f'{{"timed": {{"first": {32 * [10**400]}, "last": {32 * [0.0]}, "products": []}}}}', "timed is"),
        (f'{{"checked": {{"numbers": {33 * [0.0]}, "size": null}}}}', "checked is"),
        (f'{{"checked": {{"numbers": {32 * [0.0]}, "size": NaN}}}}', "checked is"),
    ],
)
def test_a_result_that_no_pass_writes_is_refused(job, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "time.json"
    path.write_text(text)
    with pytest.raises(written.TamperedError, match=words):
        written.fields(path, job())
    path.unlink()
    assert written.fields(path, job()) == {}
    path.write_text(json.dumps({"status": "ok", "params": 3, "running": None, "timed": {}}))
    assert written.fields(path, job())["params"] == 3
    path.write_text('{"status": "ok", "worked_s": null, "timed": null}')
    assert written.fields(path, job()) == {"status": "ok"}


@pytest.mark.parametrize(("out_of_memory", "status"), [(True, "oom"), (False, "crashed")])
def test_a_killed_pass_is_out_of_memory_only_where_memory_ran_out(
    tmp_path: Path, out_of_memory: bool, status: str
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("building\nloading\n")
    answer = {"timed_out": False, "left_running": 0, "unkillable": False, "changed": "", "exit_code": None, "signal": 9}
    seen = outcome.of_pass("time", 60.0, answer | {"out_of_memory": out_of_memory}, {"params": 3}, log)
    assert (seen["status"], seen["params"]) == (status, 3)
    assert seen["message"].endswith("it last printed: loading")


def test_processes_left_running_are_reported_once_beside_every_other_message(job, tmp_path: Path) -> None:
    answer = {"timed_out": False, "left_running": 2, "unkillable": False, "changed": ""}
    first = outcome.of_pass("time", 60.0, answer, {"status": "ok"}, tmp_path)
    later = outcome.of_pass("exact", 60.0, answer, {"status": "error", "message": "why"}, tmp_path)
    seen = outcome.merged(job(), outcome.merged(job(), {"status": "ok"}, "time", first), "exact", later)
    assert seen["message"] == "2 processes were still running at the end of the time pass, and killed; why"
    assert "left_running" not in seen
