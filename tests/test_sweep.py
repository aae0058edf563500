"""Sweeps: order, resuming, interruption, and several harnesses in one folder."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import record
from harness.plan import Plan
from harness.sweep import ordered
from tests.processes import start
from tests.reliability.cases import TINY

ROOT = Path(__file__).parent.parent
SWEEP = [
    "-m",
    "method=create_graph_rows,func_hessian",
    "problem=quadratic,rosenbrock",
    "dtype=float64",
    "measure.budget_s=0.02",
]


def cells(run: Path) -> Counter:
    """How often each cell has a record in a run folder."""
    frame = record.load(run)
    assert frame.attrs["skipped"] == []
    return Counter(zip(frame["problem"], frame["method"], frame["round"], strict=True))


def test_round_is_the_slowest_axis_and_methods_are_shuffled_by_the_seed(job) -> None:
    jobs = [(str(number), Plan(job(method=f"m{number}"), rounds=3, workers=1, resume=False)) for number in range(8)]
    order = ordered(jobs)
    assert [cell.job.round for _, cell in order] == [0] * 8 + [1] * 8 + [2] * 8
    rounds = [[name for name, _ in order[start : start + 8]] for start in (0, 8, 16)]
    assert all(sorted(names) == sorted(name for name, _ in jobs) for names in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert ordered(jobs) == order
    other = [(name, dataclasses.replace(cell, job=dataclasses.replace(cell.job, seed=1))) for name, cell in jobs]
    assert [name for name, _ in ordered(other)] != [name for name, _ in order]


def test_rounds_of_one_cell(harness, tmp_path: Path) -> None:
    done = harness("problem=quadratic", "rounds=2")
    assert done.returncode == 0, done.stderr
    assert sorted(record.load(tmp_path / "run")["round"]) == [0, 1]
    assert harness("rounds=0").returncode == 1


def test_resume_runs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "harness", *SWEEP, f"output={run}"], cwd=ROOT, check=True, capture_output=True
    )
    files = sorted(run.glob("*/record.json"))
    assert len(files) == 4
    files[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in files[1:]}
    command = [sys.executable, "-m", "harness", *SWEEP, f"resume={run}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert set(cells(run).values()) == {1}
    assert len(cells(run)) == 4


def test_resume_runs_a_cell_again_whose_method_has_changed_and_retries_a_crash_once(launcher, job, tmp_path) -> None:
    first = launcher.run(job(), tmp_path)
    assert launcher.resume(job(), tmp_path) == first
    seen = record.read(first)
    record.write(seen | {"method_hash": "another"}, first)
    again = launcher.resume(job(), tmp_path)
    assert again != first
    assert launcher.resume(job(), tmp_path) == again

    crash = job(target="tests.faulty.crash")
    path = launcher.run(crash, tmp_path)
    assert (record.read(path)["status"], record.read(path)["attempt"]) == ("crashed", 1)
    for _ in range(2):
        assert launcher.resume(crash, tmp_path) == path
        assert (record.read(path)["status"], record.read(path)["attempt"]) == ("crashed", 2)


def test_two_harnesses_may_write_into_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [start(*SWEEP, f"output={run}") for _ in range(2)]
    for program in both:
        status, out, err = program.end(timeout_s=200)
        assert status == 0, out + err
    assert sorted(cells(run).values()) == [2] * 4


@pytest.mark.parametrize("more", [(), ("workers=2", "passes=[agreement]")])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_an_interruption_keeps_what_is_finished_and_leaves_no_process(
    tmp_path: Path, number: int, status: int, more: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    program = start(*SWEEP, "seed=0,1,2,3,4,5,6,7,8,9", *more, f"output={run}")
    while len(list(run.glob("*/record.json"))) < 2:
        assert program.process.poll() is None
        time.sleep(0.02)
    program.process.send_signal(number)
    ended, _, err = program.end()
    assert ended == status, err
    assert "Traceback" not in err
    assert f"resume={run}" in err
    assert program.survivors() == []
    assert 2 <= sum(cells(run).values()) < 40
    assert set(record.load(run)["status"]) == {"ok"}, "no record of what was cut off"


def test_a_signal_that_the_launcher_has_ignored_ends_nothing(tmp_path: Path) -> None:
    """As under nohup, or in the background of a shell."""
    program = start(*TINY, f"output={tmp_path / 'run'}", ignored=[signal.SIGINT, signal.SIGHUP])
    assert program.imports()
    for number in (signal.SIGINT, signal.SIGHUP):
        program.process.send_signal(number)
    while program.process.poll() is None and not list(tmp_path.glob("run/*/job.json")):
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGHUP):
        program.process.send_signal(number)
    status, out, err = program.end()
    assert status == 0, out + err


@pytest.mark.parametrize("more", [(), ("workers=2", "passes=[agreement]")])
def test_an_interruption_while_a_server_starts_ends_at_once_and_is_not_disturbed_by_another(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    run, began = tmp_path / "run", time.monotonic()
    program = start(*SWEEP, *more, f"output={run}")
    while not any("harness.run.server" in line for line in program.running().values()):
        assert program.process.poll() is None
        time.sleep(0.01)
    interrupted = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    program.process.send_signal(signal.SIGINT)
    status, _, err = program.end()
    assert status == 130
    assert f"resume={run}" in err
    assert "Traceback" not in err
    assert time.monotonic() - interrupted < max(3, 2 * (interrupted - began))  # on a busy machine both take longer
    assert program.survivors() == []
    assert not list(run.glob("*/record.json"))


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    """SIGKILL at random moments: no record lost or torn, no orphan, and resuming completes the sweep."""
    import random

    kills, finished, folder = 0, 0, 0
    moments = random.Random(0)
    undisturbed = Counter(
        {
            (problem, method, number): 1
            for problem in ("quadratic", "rosenbrock")
            for method in ("create_graph_rows", "func_hessian")
            for number in range(3)
        }
    )
    while kills < 50:
        run = tmp_path / f"run{folder}"
        run.mkdir(exist_ok=True)
        before = {path: path.read_bytes() for path in run.glob("*/record.json")}
        program = start(*SWEEP, "rounds=3", f"resume={run}")
        try:
            status, out, err = program.end(timeout_s=moments.uniform(0.3, 7))
        except subprocess.TimeoutExpired:
            kills += 1
            assert program.survivors() == []
        else:
            assert status == 0, out + err
            finished += 1
            assert cells(run) == undisturbed
            folder += 1
        for path, content in before.items():
            assert path.read_bytes() == content
        for path in run.glob("*/record.json"):
            json.loads(path.read_text())
    run = tmp_path / f"run{folder}"
    run.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "harness", *SWEEP, "rounds=3", f"resume={run}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert cells(run) == undisturbed
    print(f"\n{kills} kills; {finished + 1} sweeps completed, each with the cells of an undisturbed run")


def test_globs_look_into_folders_where_a_pattern_does(harness, tmp_path: Path) -> None:
    done = harness(
        "-m", "problem=glob([quad*,zoo/cross*])", "method=create_graph_rows", "dtype=float64", "passes=[agreement]"
    )
    assert done.returncode == 0, done.stderr
    folder = ROOT / "conf" / "problem" / "zoo"
    crosses = {f"zoo/{path.stem}" for path in folder.glob("cross*.yaml")}
    assert {problem for problem, _, _ in cells(tmp_path / "run")} == {"quadratic"} | crosses
    done = harness("-m", "problem=glob(nothing*)")
    assert done.returncode == 1
    assert "problem=glob(nothing*) matches nothing; there are: bert, " in done.stderr
    assert "Traceback" not in done.stderr


GRIDS = """
# @package _global_
dtype: float64
quantity: trace
passes: [agreement]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      problem: quadratic
      seed: 0,1
    grids:
      - method: create_graph_rows,hutchinson
        quantity: diagonal
      - method: hutchinson
        method.probes: 8,16
      - method: hutchinson,xtrace
        method.seed: 0,3
"""


def test_grids_of_a_sweep_are_added_up_and_a_given_method_keeps_its_own_options(harness, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "grids.yaml").write_text(GRIDS)
    done = harness(f"--config-dir={tmp_path}", "+sweep=grids", "method=hutchinson,create_graph_rows", "seed=1")
    assert done.returncode == 0, done.stderr
    frame = record.load(tmp_path / "run")
    options = [json.loads(text) for text in frame["method_options"]]
    drawn = [(given.get("probes"), given.get("seed")) for given in options]
    measured = Counter(zip(frame["quantity"], frame["method"], drawn, frame["seed"], strict=True))
    assert measured == Counter(
        {
            ("diagonal", "create_graph_rows", (None, None), 1): 1,
            ("diagonal", "hutchinson", (64, 0), 1): 1,
            ("trace", "hutchinson", (8, 0), 1): 1,
            ("trace", "hutchinson", (16, 0), 1): 1,
            ("trace", "hutchinson", (64, 0), 1): 1,
            ("trace", "hutchinson", (64, 3), 1): 1,
        }
    )


@pytest.mark.parametrize("multirun", [("-m",), ()])
def test_records_that_a_method_spoils_are_named(harness, tmp_path: Path, multirun: tuple[str, ...]) -> None:
    spoiling = ["~method.compile", "method._target_=tests.faulty.spoil_records", "passes=[process]", "rounds=2"]
    done = harness(*multirun, *TINY[:2], *spoiling, env=os.environ | {"SPOILED": str(tmp_path / "run")})
    assert done.returncode == 1, done.stderr
    (kept,) = record.load(tmp_path / "run")["path"]
    (lost,) = (str(path) for path in (tmp_path / "run").glob("*/record.json") if str(path) != kept)
    (line,) = (line for line in done.stderr.splitlines() if "are gone or spoiled" in line)
    assert lost in line
    assert kept not in line
    assert "ok" in done.stdout, "what is left is shown"
