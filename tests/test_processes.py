"""Benchmark cells in several processes: numbers of the record, and what goes wrong in one of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from harness import record
from harness.analysis.efficiency import efficiency
from harness.analysis.table import Analysis
from harness.config import ConfigError
from harness.job import Job
from harness.problems import networks
from harness.problems.binding import bind
from harness.problems.method_source import Unsupported
from harness.report import efficiency as report
from harness.run import outcome, processes, several
from harness.run.launcher import Launcher, LaunchError
from harness.truth.results import plain, result_fault
from tests import sharded_faults
from tests.conftest import JOB

ROOT = Path(__file__).parent.parent
FAULTS = "tests.sharded_faults"
COMPARED = 16  # bytes that a process gives away so that parameters are compared
PROBES = dataclasses.replace(JOB.measure, full_up_to=10)


@pytest.fixture
def two(run):
    """Run the small job in two processes, by a method that goes wrong, with the given fields."""
    return lambda name="right", **changes: run(**{"target": f"{FAULTS}.{name}", "processes": 2, **changes})


def test_a_cell_in_three_processes_of_which_each_has_rows(run) -> None:
    """P = 20 is not divisible by three."""
    one = run(target="methods.sharded.vmap_hvp.hessian", passes=("exact", "agreement"))
    seen = run(target="methods.sharded.vmap_hvp.hessian", processes=3)
    assert (seen["status"], seen["message"], seen["processes"]) == ("ok", None, 3)
    assert seen["relative_error"] < 1e-15
    assert seen["output_bytes"] == one["output_bytes"] == 8 * 20 * 20
    assert seen["sketch"] == pytest.approx(one["sketch"], rel=1e-12)
    assert len(seen["ranks_tensor_peak_bytes"]) == len(seen["ranks_process_peak_bytes"]) == 3
    assert seen["tensor_peak_bytes"] == max(seen["ranks_tensor_peak_bytes"]) < one["tensor_peak_bytes"]
    assert seen["communicated_bytes"] == 3 * COMPARED
    assert one["communicated_bytes"] is None
    assert one["flops"] < seen["flops"] < 1.2 * one["flops"]  # what a product has in common is computed three times
    assert len(seen["times_s"]) >= 2


def test_a_matrix_that_is_not_gathered_is_compared_by_rows_and_products(run) -> None:
    options = {"target": "methods.sharded.factored.hessian", "passes": ("agreement",), "measure": PROBES}
    one, seen = run(**options), run(**options, processes=2)
    assert seen["status"] == "ok"
    assert (seen["probes"], seen["compared"]) == (8, one["compared"])
    for name in ("relative_error", "worst_error", "asymmetry"):
        assert seen[name] < 1e-15
    assert seen["sketch"] == pytest.approx(one["sketch"], rel=1e-12)


def test_what_a_method_communicates_is_counted(run) -> None:
    seen = run(target="methods.sharded.data_parallel.hvp", quantity="hvp", processes=2, passes=("exact", "agreement"))
    assert seen["status"] == "ok"
    products, questions = 8 * 20 * 2, 3 * 16  # (P, k) with k = 2; what the processes ask each other has two numbers
    assert seen["communicated_bytes"] == 2 * (products + questions + COMPARED)
    assert seen["communication_s"] > 0


@pytest.mark.parametrize(
    ("name", "size"), [("times_one", 2 * 8 * 10 * 20), ("sent", 8 * 100), ("broadcast", 8 * 100), ("late_after", 0)]
)
def test_what_any_method_communicates_is_counted_once(run, name: str, size: int) -> None:
    """The time of collectives does not include that in which a process waits for the other before its call."""
    seen = run(target=f"tests.communicating.{name}", processes=2, passes=("exact",))
    one = run(target="methods.sharded.vmap_hvp.hessian", passes=("exact",))
    assert (seen["status"], seen["communicated_bytes"]) == ("ok", size + 2 * COMPARED), seen["message"]
    assert 0 < seen["communication_s"] < 0.25
    of_local_rows = 2 * 20**3 * 2 if name == "times_one" else 0
    assert seen["flops"] < 1.2 * one["flops"] + of_local_rows


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("killed", "crashed", "rank 1 of 2 of the time pass ended with signal SIGKILL"),
        ("raising", "error", "rank 1 of 2: ValueError: rank 1 is not like the others"),
        pytest.param("all_raising", "error", "ValueError: all are alike", marks=pytest.mark.slow),
        pytest.param(
            "leaving",
            "crashed",
            "rank 0 of 2 of the time pass ended with exit status 0, without a result",
            marks=pytest.mark.slow,
        ),
        pytest.param("leaving_a_child", "crashed", "SIGKILL", marks=pytest.mark.slow),
        ("other_shapes", "wrong", "over 2 processes has (10, 20) there"),
        pytest.param(
            "plain_in_one",
            "wrong",
            "rank 1 of 2: tests.sharded_faults.plain_in_one returned shape (10, 20)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "theta_in_place",
            "error",
            "rank 1 of 2: tests.sharded_faults.theta_in_place changed theta",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sharded_by_columns",
            "wrong",
            "placements S(1) over 2 processes; return a matrix with placement S(0)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_goes_wrong_ends_the_cell_in_a_row(two, name: str, status: str, words: str) -> None:
    """In ten seconds, with no process left: those of the launcher are its keeper and its server."""
    two(passes=("time",))  # a server is there
    before = set(processes.descendants(os.getpid()))
    began = time.monotonic()
    seen = two(name, passes=("time",))
    assert time.monotonic() - began < 10
    assert seen["status"] == status, seen["message"]
    assert words in seen["message"]
    assert seen["message"].startswith("rank") == (name not in ("all_raising", "sharded_by_columns"))
    assert set(processes.descendants(os.getpid())) == before


@pytest.mark.parametrize("measure", [pytest.param(JOB.measure, marks=pytest.mark.slow), PROBES])
def test_a_wrong_shard_is_found_by_the_comparison(two, measure) -> None:
    seen = two("wrong_in_one", passes=("agreement",), measure=measure)
    assert (seen["status"], seen["relative_error"]) == ("wrong", pytest.approx(8e-4, rel=0.2))


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("time", "hanging", "while rank 1 of 2 had not come as far as the others"),
        pytest.param(
            "agreement", "hanging", "while rank 1 of 2 had not come as far as the others", marks=pytest.mark.slow
        ),
        pytest.param(
            "time", "waiting_for_the_other", "with no rank known to be behind the others", marks=pytest.mark.slow
        ),
    ],
)
def test_a_rank_that_hangs_ends_at_the_time_limit(two, part: str, name: str, words: str) -> None:
    seen = two(name, passes=(part,), limit_s=2.5)
    assert seen["status"] == "timeout"
    assert words in seen["message"]


@pytest.mark.parametrize(
    ("builder", "differing"), [("other_parameters", "theta, the data"), ("other_sizes", "P, theta")]
)
def test_ranks_with_other_problems_are_refused(two, builder: str, differing: str) -> None:
    seen = two(problem_target=f"{FAULTS}.{builder}", problem_options={}, passes=("time",))
    assert seen["status"] == "error"
    assert f"rank 1 of 2: it has built another problem than rank 0: {differing}" in seen["message"]


@pytest.mark.slow
def test_a_closed_launcher_leaves_no_rank_and_no_folder(job, tmp_path: Path) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("harness-ranks-*"))
    before, raised = set(processes.descendants(os.getpid())), []

    def run() -> None:
        try:
            launcher.run(job(target=f"{FAULTS}.hanging", processes=2, passes=("time",)), tmp_path)
        except LaunchError as error:
            raised.append(error)

    with Launcher() as launcher:
        thread = threading.Thread(target=run)
        thread.start()
        while len(set(processes.descendants(os.getpid())) - before) < 4:  # the keeper, the server and two ranks
            time.sleep(0.05)
        time.sleep(0.5)  # in which they meet
    thread.join(20)
    assert len(raised) == 1
    assert set(processes.descendants(os.getpid())) <= before
    assert set(Path(tempfile.gettempdir()).glob("harness-ranks-*")) <= folders


def test_other_methods_are_unsupported_in_several_processes(job) -> None:
    with pytest.raises(Unsupported, match=r"computes in one process, and processes=2 was asked for"):
        bind(job(processes=2), networks.mlp(width=3))


@pytest.mark.parametrize(("device", "count", "words"), [("cuda:1", 2, "set device=cuda"), ("cpu", 0, "at least 1")])
def test_what_cannot_be_run_in_several_processes_is_no_job(device: str, count: int, words: str) -> None:
    values = dataclasses.asdict(JOB) | {"device": device, "processes": count, "passes": list(JOB.passes)}
    config = values | {"problem": {"_target_": "a.b"}, "method": {"_target_": "a.b"}}
    with pytest.raises(ConfigError, match=words):
        Job.from_config(config, "mlp", "some")


def test_a_mesh_of_one_process(job) -> None:
    """A sharded method gives a plain tensor where there is one process."""
    problem = networks.mlp(inputs=3, width=3, outputs=2, batch=8)
    result = plain(bind(job(target="methods.sharded.vmap_hvp.hessian"), problem).call())
    assert type(result) is torch.Tensor
    assert result_fault(result, "hessian", problem.theta, None) is None
    torch.distributed.destroy_process_group()


# The fields of several ranks, put together


def ended(rank: int, **changes):
    """An answer of the server."""
    answer = {"timed_out": False, "behind": [], "left_running": 0, "unkillable": False, "changed": "", "rank": rank}
    return answer | {"exit_code": 0, "signal": None, "out_of_memory": False} | changes


def test_fields_of_ranks_are_put_together() -> None:
    one = {"status": "ok", "times_s": [1.0], "tensor_peak_bytes": 5, "flops": 3, "sampling_cpu_s": 1.0}
    other = {"status": "ok", "times_s": [1.0], "tensor_peak_bytes": 7, "flops": 4, "sampling_cpu_s": 0.5}
    one, other = one | {"sampling_wall_s": 1.0, "warnings": "a"}, other | {"sampling_wall_s": 1.0, "warnings": "b"}
    seen = several.together([one, other], ended(1))
    assert (seen["status"], seen["tensor_peak_bytes"], seen["flops"], seen["warnings"]) == ("ok", 7, 7, "a; b")
    assert seen["ranks_tensor_peak_bytes"] == [5.0, 7.0]
    assert (seen["sampling_cpu_s"], seen["sampling_wall_s"]) == (0.5, 1.0)


def test_what_a_rank_lacks_is_known_of_none() -> None:
    """The time ran out before the second rank had counted."""
    one = {"status": "ok", "params": 20, "tensor_peak_bytes": 5, "operations": 213, "flops": 9504, "worked_s": 1.0}
    other = {"params": 20, "tensor_peak_bytes": 7}
    seen = several.together([one, other], {"timed_out": True, "behind": [1]})
    assert seen == {"params": 20, "tensor_peak_bytes": 7, "ranks_tensor_peak_bytes": [5.0, 7.0]}


def test_the_rank_that_ended_first_gives_the_reason() -> None:
    one = {"status": "error", "message": "Connection closed by peer"}
    other = {"status": "oom", "message": "no memory", "traceback": "there"}
    seen = several.together([one, other], ended(1))
    assert seen == {"status": "oom", "message": "rank 1 of 2: no memory", "traceback": "there"}


def test_a_rank_that_the_system_killed_for_its_memory_is_named(tmp_path: Path) -> None:
    seen = several.together([{"status": "error", "message": "Connection closed"}, {"params": 3}], ended(1))
    assert "status" not in seen
    answer = ended(1, exit_code=None, signal=9, out_of_memory=True)
    row = outcome.of_pass("time", 60.0, answer, seen, tmp_path / "log.txt", 2)
    assert row["status"] == "oom"
    assert row["message"].startswith("rank 1 of 2 of the time pass was killed by the system (SIGKILL)")


# The report


def records(folder: Path, cells) -> Analysis:
    """Records of cells (processes, P, seconds, bytes, other fields)."""
    for number, (count, params, time_s, size, *others) in enumerate(cells):
        changes = others[0] if others else {}
        fields = JOB.fields() | {"processes": count, "params": params, "times_s": [time_s], "first_s": time_s}
        fields |= {"status": "ok", "tensor_peak_bytes": size, "problem_options": f'{{"width": {params}}}'} | changes
        path = folder / str(number) / "record.json"
        path.parent.mkdir()
        record.write(fields, path)
    return Analysis(record.load(folder))


def test_efficiency_is_derived_from_the_times_of_one_and_of_several_processes(tmp_path: Path) -> None:
    analysis = records(tmp_path, [(1, 100, 1.0, 800), (2, 100, 0.625, 440), (4, 100, 0.5, 240), (4, 200, 1.25, 900)])
    found = efficiency(analysis)
    strong = found[found["kind"] == "strong"]
    assert list(zip(strong["params"], strong["ranks"], strong["efficiency"], strict=True)) == [
        (100, 2, 0.8),
        (100, 4, 0.5),
    ]
    assert list(strong["peak_share"]) == [0.55, 0.3]
    (weak,) = found[found["kind"] == "weak"].to_dict("records")
    assert (weak["params"], weak["ranks"], weak["efficiency"]) == (200, 4, 0.8)
    text = report.markdown(analysis)
    assert text is not None
    assert "Strong scaling" in text
    assert "| 0.55" in text


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ["weak"]),
        ({"problem_options": '{"width": 200, "batch": 8}'}, []),
        ({"problem_options": '{"width": "wide"}'}, []),
        ({"quantity": "hvp", "vectors": 2}, []),
    ],
)
def test_weak_scaling_is_of_matrices_of_problems_that_differ_in_size_alone(tmp_path: Path, changes, kinds) -> None:
    quantity = {name: changes[name] for name in ("quantity", "vectors") if name in changes}
    analysis = records(tmp_path, [(1, 100, 1.0, 800, quantity), (4, 200, 1.25, 900, changes)])
    assert list(efficiency(analysis)["kind"]) == kinds


def test_an_efficiency_across_nodes_is_marked(tmp_path: Path) -> None:
    analysis = records(tmp_path, [(1, 100, 1.0, 800), (2, 100, 0.625, 440)])
    assert not efficiency(analysis)["apart"].any()
    analysis.frame["node"] = ["n1", "n2"]
    text = report.markdown(Analysis(analysis.frame))
    assert text is not None
    assert "| 0.80\\* " in text
    assert "different nodes" in text


def test_a_contended_time_of_an_efficiency_is_marked(tmp_path: Path) -> None:
    contended = {"sampling_wall_s": 1.0, "sampling_cpu_s": 0.4, "sampling_waiting_s": 0.6}
    text = report.markdown(records(tmp_path, [(1, 100, 1.0, 800, contended), (2, 100, 0.5, 400)]))
    assert text is not None
    assert "500 ms *" in text.replace("\\", "")
    assert "under contention" in text


def test_more_threads_than_cores_are_reported(two) -> None:
    threads = len(os.sched_getaffinity(0)) // 2 + 1
    seen = two(passes=("agreement",), threads=threads)
    assert f"2 processes with threads={threads} each share" in seen["warnings"]


def test_one_process_has_no_scaling(tmp_path: Path) -> None:
    assert report.markdown(records(tmp_path, [(1, 100, 1.0, 800), (1, 200, 0.6, 440)])) is None


@pytest.mark.parametrize(("count", "waited_s", "contended"), [(1, 0.0, True), (2, 0.0, False), (2, 0.6, True)])
def test_a_rank_that_waits_for_another_is_not_contended(tmp_path: Path, count, waited_s, contended) -> None:
    fields = JOB.fields() | {"processes": count, "status": "ok", "params": 4, "times_s": [1.0], "first_s": 1.0}
    fields |= {"sampling_wall_s": 1.0, "sampling_cpu_s": 0.4, "sampling_waiting_s": waited_s}
    record.write(fields, tmp_path / "record.json")
    assert record.load(tmp_path)["contended"].tolist() == [contended]


def test_an_older_record_has_one_process(tmp_path: Path) -> None:
    analysis = records(tmp_path, [(None, 100, 1.0, 800), (2, 100, 0.5, 400)])
    assert list(efficiency(analysis)["efficiency"]) == [1.0]


def test_faults_are_all_tried() -> None:
    names = {name for name, value in vars(sharded_faults).items() if callable(value) and value.__module__ == FAULTS}
    marks = [mark for test in globals().values() for mark in getattr(test, "pytestmark", []) if mark.args]
    of_faults = [mark.args[1] for mark in marks if {"name", "builder"} & set(mark.args[0])]
    tried = {value for entries in of_faults for entry in entries for value in getattr(entry, "values", entry)}
    assert names - tried == {"right", "wrong_in_one"}  # which have tests of their own


@pytest.mark.slow
def test_the_program_of_the_page_runs() -> None:
    program = [sys.executable, "-m", "tests.programs.processes", "--width=24", "--batch=16"]
    found = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=180, check=False)
    assert found.returncode == 0, found.stderr
    assert "killed: after" in found.stdout
