"""Resuming a run: which records count, and that no cell is measured twice while others write into the folder."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import record
from harness.run.folders import LOCK, beside_others, claim, folders_of, locked, make
from harness.run.launcher import Launcher
from tests.processes import start
from tests.test_sweep import SWEEP, cells

ROOT = Path(__file__).parent.parent
CODE = {"method_hash": "a", "problem_hash": "b", "packages": None, "torch": "2.13", "cpu": "c", "gpu": None}


class Noting(Launcher):
    """A launcher without processes, the passes of which take a moment; it notes what it was asked for."""

    def __init__(self, takes_s: float = 0.0, **code: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._takes_s, self._code = takes_s, CODE | code

    def _ask(self, job, part, folder, truth=None):
        self.asked.append(part)
        time.sleep(self._takes_s)
        return {"status": "ok", "worked_s": 0.0} | self._code


@pytest.fixture
def jobs(job):
    return [job(passes=("process",), seed=seed) for seed in range(20)]


def test_finished_cells_need_one_process_for_all(jobs, tmp_path: Path) -> None:
    with Noting() as first:
        paths = [first.run(job, tmp_path) for job in jobs]
    with Noting() as launcher:
        assert [launcher.resume(job, tmp_path) for job in jobs] == paths
        assert launcher.asked == ["identity"]


def test_a_problem_and_a_method_are_identified_once_not_in_each_combination(job, tmp_path: Path) -> None:
    problems = [{"problem_options": {"width": width, "kind": kind}} for width in (1, 2, 3) for kind in ("a", "b")]
    methods = [{"target": "a.b"}, {"target": "a.c"}, {"target": "a.b", "method_options": {"k": 1}}]
    sweep = [job(passes=("process",), **problem, **method) for problem in problems for method in methods]
    with Noting() as first:
        paths = [first.run(job, tmp_path) for job in sweep]
    with Noting() as launcher:
        assert [launcher.resume(job, tmp_path) for job in sweep] == paths
        assert launcher.asked == ["identity"] * 4, "three methods with the texts of the first problem, then the others"


def test_an_answer_without_an_identity_is_not_kept(jobs, tmp_path: Path) -> None:
    with Noting() as launcher:
        paths = [launcher.run(job, tmp_path) for job in jobs[:2]]
        launcher._code = {}
        assert launcher._identities.of(jobs[0]) == {"status": "ok", "worked_s": 0.0}
        launcher._code = CODE
        assert [launcher.resume(job, tmp_path) for job in jobs[:2]] == paths


@pytest.mark.parametrize("changed", ["method_hash", "problem_hash", "torch"])
def test_a_record_of_other_code_does_not_count(jobs, tmp_path: Path, changed: str) -> None:
    with Noting() as first:
        path = first.run(jobs[0], tmp_path)
    with Noting(**{changed: "another"}) as launcher:
        again = launcher.resume(jobs[0], tmp_path)
        assert again != path
        assert launcher.resume(jobs[0], tmp_path) == again


def test_a_source_that_returns_is_measured_again(jobs, tmp_path: Path) -> None:
    """So that the newest record of a cell is of the source that ran last."""
    paths = []
    for source in ("a", "b", "a"):
        with Noting(problem_hash=source) as launcher:
            paths.append(launcher.resume(jobs[0], tmp_path))
            assert launcher.resume(jobs[0], tmp_path) in (paths[0], paths[-1])
    assert len({*paths}) == 3
    assert list(record.load(tmp_path)["path"]) == [str(paths[0]), str(paths[2])]


def test_a_record_of_an_older_schema_counts_without_the_hash_of_its_problem(jobs, tmp_path: Path) -> None:
    with Noting() as launcher:
        path = launcher.run(jobs[0], tmp_path)
        seen = record.read(path) | {"schema_version": 6, "problem_hash": None}
        record.write_json(seen, path)
        assert launcher.resume(jobs[0], tmp_path) == path


def test_the_hashes_do_not_depend_on_what_else_was_imported(launcher, job, tmp_path: Path) -> None:
    """The method is of the problem's package, and imported after the problem in the pass that records its hash."""
    both = job(problem_target="tests.warned.quiet", problem_options={}, target="tests.whole.decorated")
    path = launcher.run(both, tmp_path)
    assert record.read(path)["method_hash"] is not None
    assert launcher.resume(both, tmp_path) == path


def test_harnesses_that_resume_at_once_run_every_cell_once(jobs, tmp_path: Path) -> None:
    make(tmp_path / jobs[0].key)  # an interrupted one
    found, launchers = [], [Noting(takes_s=0.02) for _ in range(3)]

    def resume(launcher: Launcher) -> None:
        seen = {job.key: launcher.resume(job, tmp_path) for job in jobs}
        late = [job for job in jobs if seen[job.key] is None]
        found.append(seen | {job.key: launcher.resume_after_others(job, tmp_path) for job in late})

    threads = [threading.Thread(target=resume, args=(launcher,)) for launcher in launchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = Counter(part for launcher in launchers for part in launcher.asked)
    assert asked["process"] == len(jobs)
    assert found[0] == found[1] == found[2]
    assert len(list(tmp_path.glob("*/record.json"))) == len(jobs)


def test_a_closed_launcher_waits_for_nobody(jobs, tmp_path: Path) -> None:
    with Noting() as launcher:
        pass
    make(tmp_path / jobs[0].key)
    with locked(tmp_path / jobs[0].key), pytest.raises(RuntimeError, match="interrupted"):
        launcher.resume_after_others(jobs[0], tmp_path)


def test_a_lock_ends_with_its_process_even_where_a_child_lives_on(tmp_path: Path) -> None:
    program = (
        "import pathlib, subprocess, sys\n"
        "from harness.run.folders import locked\n"
        "with locked(pathlib.Path(sys.argv[1])) as ours:\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    print(int(ours), child.pid, flush=True)\n"
        "    child.wait()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    ours, child = map(int, holder.stdout.readline().split())
    try:
        with locked(tmp_path) as free:
            assert (ours, free) == (1, False)
        holder.kill()
        holder.wait()
        with locked(tmp_path) as free:
            assert free
    finally:
        holder.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_what_a_method_puts_in_place_of_the_lock_is_removed(tmp_path: Path) -> None:
    lock, foreign = tmp_path / LOCK, tmp_path / "foreign"
    for replace in (lock.mkdir, lambda: lock.symlink_to(foreign), lambda: os.mkfifo(lock)):
        replace()
        with locked(tmp_path) as free:
            assert free
            with locked(tmp_path) as again:
                assert not again
        assert not foreign.exists()
        lock.unlink()


def test_a_file_system_without_locks_lets_everyone_pass(tmp_path: Path, monkeypatch) -> None:
    def refuse(file: int, kind: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with beside_others(tmp_path, resume=False), beside_others(tmp_path, resume=True), locked(tmp_path) as free:
        assert free


def test_the_folders_of_a_cell_are_those_that_were_claimed(tmp_path: Path) -> None:
    claimed = [claim(tmp_path, key) for key in ("a", "a", "ab", "a")]
    assert list(folders_of(tmp_path, "a")) == [claimed[0], claimed[1], claimed[3]]
    assert list(folders_of(tmp_path, "b")) == []


def test_runs_that_resume_beside_a_new_one_wait_for_it_and_share_what_it_leaves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with contextlib.ExitStack() as programs:
        first = programs.enter_context(start(*SWEEP, "seed=0,1", f"output={run}"))
        while not list(run.glob("*/record.json")):
            assert first.process.poll() is None
            time.sleep(0.05)
        first.process.send_signal(signal.SIGSTOP)  # it is still there when the others have composed their cells
        others = [programs.enter_context(start(*SWEEP, "seed=0,1", f"resume={run}")) for _ in range(2)]
        for other in others:
            assert other.process.stderr is not None
            lines = iter(other.process.stderr.readline, "")
            assert any("waiting for the harness that still runs in" in line for line in lines)
        done = len(list(run.glob("*/record.json")))
        first.process.kill()
        for other in others:
            status, out, err = other.end(timeout_s=200)
            assert status == 0, out + err
    assert done < 8
    assert len(cells_by_seed := record.load(run)[["problem", "method", "seed"]]) == 8
    assert not cells_by_seed.duplicated().any()
    assert sum(cells(run).values()) == 8
