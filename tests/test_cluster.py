"""Packs, journals, verdicts on ended jobs and the following of jobs, with a cluster that is only pretended."""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import program, record
from harness.cluster import ended, packs, scheduler, waiting
from harness.cluster.job import _run
from harness.cluster.options import Needs, Slurm
from harness.cluster.packs import Journal, Pack
from harness.cluster.place import ENDING_S, Place
from harness.cluster.scheduler import State
from harness.cluster.submissions import Submissions
from harness.compare.baseline import Measured
from harness.config import ConfigError
from tests.test_compare import cell, judged
from tests.test_compare import folder as stored
from tests.test_resume import CODE, Noting

OPTIONS = Slurm(
    partition=None,
    account=None,
    qos=None,
    gpus=None,
    cpus=None,
    memory_gb=None,
    time_min=60,
    pack=4,
    at_once=8,
    exclusive=True,
    sbatch={},
)
NEEDS = Needs(cpus=1, gpus=0)
SINFO = "ci|2|8000|(null)|1:00:00\nlong|64|256000+|gpu:a100:4(S:0-1),gpu:h100:4|infinite\n"


def options(**changes) -> Slurm:
    return dataclasses.replace(OPTIONS, **changes)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Make programs that print a text, or fail with it, the only ones of Slurm on PATH."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    scheduler._say_once.cache_clear()

    def make(status: int = 0, **printed: str) -> None:
        for name, text in printed.items():
            (place / f"{name}.txt").write_text(text)
            stream = " >&2" if status else ""
            (place / name).write_text(f"#!/bin/sh\n/bin/cat {place}/{name}.txt{stream}\nexit {status}\n")
            (place / name).chmod(0o755)

    return make


@pytest.fixture
def sweep(job) -> list[Measured]:
    """Two methods on four problems, in three rounds, one of the problems on a GPU."""
    devices = ["cpu", "cpu", "cpu", "cuda:1"]
    return [
        Measured(f"{method} {seed} {number}", job(method=method, seed=seed, round=number, device=devices[seed]), "")
        for number in range(3)
        for seed in (2, 0, 3, 1)
        for method in ("a", "b")
    ]


def test_what_is_compared_is_in_one_pack_in_its_order(sweep) -> None:
    found = packs.packed(sweep, options(pack=13))
    assert found.keys() == {NEEDS, Needs(cpus=1, gpus=2)}
    sizes = {needs: [len(pack.cells) for pack in own] for needs, own in found.items()}
    assert sizes == {NEEDS: [12, 6], Needs(cpus=1, gpus=2): [6]}
    for pack in [*found[NEEDS], *found[Needs(cpus=1, gpus=2)]]:
        assert list(pack.cells) == [one for one in sweep if one in pack.cells], "rounds stay interleaved"
    seeds = [{one.job.seed for one in pack.cells} for pack in found[NEEDS]]
    assert seeds == [{2, 0}, {1}]


def test_a_contest_larger_than_a_pack_is_not_split_nor_are_baseline_and_candidate(job) -> None:
    both = [Measured(str(code), job(code=code, round=number), "") for number in range(5) for code in (None, "/x")]
    assert [len(pack.cells) for pack in packs.packed(both, options(pack=3))[NEEDS]] == [10]


def test_a_pack_is_read_as_it_was_written(sweep, tmp_path: Path) -> None:
    file = tmp_path / "0.json"
    pack = Pack(sweep, attempt=2, failed_starts=1, node="n1")
    packs.write(pack, file)
    assert packs.read(file) == pack
    file.write_text('{"cells": [{}]}')
    with pytest.raises(record.RecordError, match="is no pack"):
        packs.read(file)


def test_a_journal_is_followed_line_by_line(tmp_path: Path) -> None:
    pack = tmp_path / "run" / "slurm" / "001" / "0.json"
    packs.write(Pack([]), pack)
    writer, reader = Journal(pack), Journal(pack)
    reader.follow()
    assert reader.cut_off is None
    writer.begin(0)
    writer.end(0, tmp_path / "run" / "a" / "record.json")
    writer.begin(1)
    with pack.with_suffix(".cells").open("ab") as stream:
        stream.write(b'{"ce')  # as another machine sees it while it is written
    reader.follow()
    assert reader.records == {0: tmp_path / "run" / "a" / "record.json"}
    assert (reader.begun, reader.cut_off) == ([0, 1], 1)
    reader.begin(2)  # as a job that goes on where it was killed
    writer.follow()
    assert writer.begun == reader.begun == [0, 1, 2]


@pytest.mark.parametrize(
    ("state", "memory", "alone", "attempt", "status"),
    [
        (State("OUT_OF_MEMORY", "0:125"), None, True, 1, "oom"),
        (State("OUT_OF_MEMORY", "0:125"), "slurmstepd: error: Detected 1 oom_kill event", False, 1, None),
        (State("FAILED", "0:9"), "slurmstepd: error: Exceeded job memory limit", True, 1, "oom"),
        (State("FAILED", "0:9"), "slurmstepd: error: Exceeded job memory limit", False, 1, None),
        (State("CANCELLED"), "slurmstepd: error: Exceeded job memory limit", True, 1, "oom"),
        (State("DEADLINE"), None, True, 1, None),
        (State("TIMEOUT", "0:15"), None, True, 1, "timeout"),
        (State("TIMEOUT", "0:15"), None, False, 1, None),
        (State("PREEMPTED", "0:15"), None, True, 2, None),
        (State("NODE_FAIL"), None, True, 3, "crashed"),
        (State("UNKNOWN"), None, True, 3, "crashed"),
        (State("CANCELLED", "0:15"), None, True, 3, None),
    ],
)
def test_a_cell_ends_with_its_job_as_slurm_says(state, memory, alone, attempt, status) -> None:
    found = ended.verdict(state, "12_3", memory, alone, attempt)
    assert (found and found[0]) == status
    if found is not None:
        assert "12_3" in found[1]
        assert state.name in found[1]


def test_words_of_slurm_on_memory_are_found_and_no_others(tmp_path: Path) -> None:
    log = tmp_path / "log.err"
    assert scheduler.killed_for_memory(log) is None
    log.write_text("slurmstepd-n1: error: *** JOB 2 ON n1 CANCELLED AT 2026-11-29T16:05:19 DUE TO TIME LIMIT ***\n")
    assert scheduler.killed_for_memory(log) is None
    for words in (
        "slurmstepd-n1: error: StepId=2.batch exceeded memory limit (548712448 > 524288000), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM Killed.",
    ):
        log.write_text(f"harness: x\n{words}\nmore\n")
        assert scheduler.killed_for_memory(log) == words


def test_time_limits_of_slurm() -> None:
    limits = {"infinite": float("inf"), "1-00:00:00": 1440, "1:30:00": 90, "30:00": 30, "n/a": float("inf")}
    assert {text: scheduler._minutes(text) for text in limits} == limits


@pytest.mark.parametrize(
    ("changes", "needs", "words"),
    [
        ({"partition": "nope"}, NEEDS, "launcher.partition=nope: there is none; choose of ci, long"),
        ({"partition": "ci"}, Needs(cpus=3, gpus=0), "launcher.cpus: jobs of 3 cores .* partition ci allows 2 cores"),
        ({}, Needs(cpus=65, gpus=0), "launcher.cpus: jobs of 65 cores .* the cluster allows 64 cores"),
        ({"partition": "ci"}, Needs(cpus=1, gpus=1), "launcher.gpus: jobs of 1 GPUs .* partition ci allows 0 GPUs"),
        ({}, Needs(cpus=1, gpus=9), "the cluster allows 8 GPUs"),
        ({"partition": "ci", "memory_gb": 9}, NEEDS, "launcher.memory_gb: jobs of 9 GB .* allows 8.388 GB"),
        ({"partition": "ci", "time_min": 61}, NEEDS, "launcher.time_min: jobs of 61 minutes .* allows 60 minutes"),
    ],
)
def test_what_no_node_has_is_refused_in_a_line(programs, changes, needs, words) -> None:
    pytest.importorskip("submitit")
    programs(sinfo=SINFO, sbatch="", srun="")
    scheduler.check(options(), {NEEDS})
    with pytest.raises(ConfigError, match=words) as refused:
        scheduler.check(options(**changes), {needs})
    assert "\n" not in str(refused.value)


def test_a_machine_without_slurm_or_submitit_is_named(programs, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(ConfigError, match=r"pip install '\.\[slurm\]'"):
            scheduler.check(options(), {NEEDS})
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="sbatch is not found"):
        scheduler.check(options(), {NEEDS})
    programs(sbatch="", srun="")
    programs(sinfo="slurm_load_partitions: Unable to contact slurm controller\n", status=1)
    with pytest.raises(ConfigError, match="Unable to contact slurm controller"):
        scheduler.check(options(), {NEEDS})


def test_states_come_from_the_queue_and_for_ended_jobs_from_the_accounting(programs, capsys) -> None:
    programs(squeue="12_0|RUNNING|None\n12_1|PENDING|Resources\n12_2|FAILED|JobLaunchFailure\n")
    assert str(scheduler.states(["12_2"])["12_2"]) == "FAILED (JobLaunchFailure)"
    assert "no accounting (sacct cannot be run" in capsys.readouterr().err
    programs(sacct="12_2|CANCELLED by 0|0:9\n12_3|TIMEOUT|0:15\n12_0|COMPLETED|0:0\n")
    names = [f"12_{number}" for number in range(5)]
    assert list(map(str, scheduler.states(names).values())) == [
        "RUNNING",
        "PENDING (Resources)",
        "CANCELLED (0:9)",
        "TIMEOUT (0:15)",
        "UNKNOWN",
    ]
    assert [state.ended for state in scheduler.states(names).values()] == [False, False, True, True, True]
    programs(sacct="slurmdbd: Connection refused\n", status=1)
    with pytest.raises(scheduler.SchedulerError, match="Connection refused"):
        scheduler.states(names)
    programs(sacct="Slurm accounting storage is disabled\n", status=1)
    assert str(scheduler.states(names)["12_2"]) == "FAILED (JobLaunchFailure)"
    assert scheduler.states(names)["12_3"] == State("UNKNOWN")
    assert capsys.readouterr().err.count("no accounting (sacct: Slurm accounting storage is disabled)") == 1


def test_tasks_that_never_began_are_one_line_of_the_accounting(programs) -> None:
    programs(squeue="", sacct="7_0|FAILED|1:0\n7_[1-3,5%2]|CANCELLED by 0|0:0\n7_4|RUNNING|0:0\n8|COMPLETED|0:0\n")
    seen = scheduler.states([*(f"7_{task}" for task in range(6)), "8"])
    cancelled = dict.fromkeys(("7_1", "7_2", "7_3", "7_5"), State("CANCELLED", "0:0"))
    assert seen == cancelled | {
        "7_0": State("FAILED", "1:0"),
        "7_4": State("UNKNOWN"),  # it is not in the queue
        "8": State("COMPLETED", "0:0"),
    }
    assert scheduler.numbers("x") == ["7_0", "7_1", "7_2", "7_3", "7_4", "7_5", "8"]


def test_a_users_variables_do_not_change_what_slurms_programs_print(programs, monkeypatch) -> None:
    for name in ("SQUEUE_FORMAT", "SACCT_FORMAT", "SINFO_ALL", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "of a user")
    programs(squeue="")
    Path(os.environ["PATH"], "squeue").write_text("#!/bin/sh\n/usr/bin/env\n")
    seen = dict(line.split("=", 1) for line in scheduler.output_of("squeue").splitlines() if "=" in line)
    assert [name for name, value in seen.items() if value == "of a user"] == ["SLURM_CLUSTERS"]


@pytest.mark.parametrize(
    "options", [{"job_name": "x"}, {"array": "1-2"}, {"output": "x"}, {"constraint": ["a"]}, {1: "x"}, "constraint"]
)
def test_options_of_sbatch_that_the_harness_sets_are_refused(options) -> None:
    keys = dataclasses.asdict(OPTIONS)
    with pytest.raises(ConfigError, match=r"launcher.sbatch=.* without job-name, array, output, error"):
        Slurm.from_config(keys | {"sbatch": options})


def test_parameters_of_a_job() -> None:
    assert options(memory_gb=1e-6).parameters(NEEDS)["mem"] == "1M", "0 would be all"
    assert options(memory_gb=1.5).parameters(NEEDS)["mem"] == "1430M"
    further = {"constraint": "a100", "requeue": False, "nice": None, "priority": 0}
    assert options(sbatch=further).parameters(NEEDS)["additional_parameters"] == {"constraint": "a100", "priority": 0}


@pytest.fixture
def in_a_job(programs, monkeypatch) -> Callable[..., None]:
    """Make this process one of job 12_3 on a node with these other jobs."""

    def set_up(*others: str, shares: str = "NO") -> None:
        env = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURMD_NODENAME": "n1"}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        programs(
            scontrol=f"JobId=15 EndTime=Unknown OverSubscribe={shares} X=1\n",
            squeue="".join(f"{job}\n" for job in ("15", *others)),
        )
        monkeypatch.setattr("harness.cluster.job.Launcher", lambda where: _InAJob(where))

    return set_up


class _InAJob(Noting):
    """A launcher without processes, of a job."""

    def __init__(self, where) -> None:
        super().__init__()
        self._where = where


@pytest.mark.parametrize(("others", "shared"), [((), False), (("16",), True)])
def test_a_job_records_where_it_runs_and_whether_it_is_alone(in_a_job, sweep, tmp_path: Path, others, shared) -> None:
    in_a_job(*others)
    file = tmp_path / "run" / "slurm" / "001" / "3.json"
    packs.write(Pack(sweep[:2]), file)
    assert _run(file) == 0
    frame = record.load(tmp_path / "run")
    assert list(frame["slurm_job"]) == ["12_3"] * 2
    assert list(frame["node"]) == ["n1"] * 2
    assert list(frame["co_scheduled"]) == list(frame["contended"]) == [shared] * 2
    assert frame["message"].str.contains("another job ran on this node").any() == shared


def test_a_neighbour_that_has_left_meanwhile_counts(in_a_job, job, monkeypatch) -> None:
    monkeypatch.setattr("harness.cluster.place.LOOK_S", 0.0)
    in_a_job("16")
    place = Place()
    place.look()
    in_a_job()
    seen = [place.fields(job(), {"status": "ok"})["co_scheduled"] for _ in range(2)]
    assert seen == [True, False], "of the cell that began beside it, and of the next"


@pytest.mark.parametrize(("shares", "known"), [("NO", False), ("OK", None)])
def test_a_cell_after_a_look_may_have_a_neighbour_unless_the_job_has_its_node_for_itself(
    in_a_job, job, monkeypatch, shares, known
) -> None:
    in_a_job(shares=shares)
    place = Place()
    place.look()
    assert place.fields(job(), {"status": "ok"})["co_scheduled"] is known
    monkeypatch.setattr("harness.cluster.place.LOOK_S", 0.0)
    assert place.fields(job(), {"status": "ok"})["co_scheduled"] is False


@pytest.mark.parametrize(("status", "waits"), [("ok", 0), ("wrong", 0), ("crashed", 1), ("error", 1), ("oom", 1)])
def test_a_cell_that_failed_waits_for_the_signal_that_ends_its_job(in_a_job, job, monkeypatch, status, waits) -> None:
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    in_a_job()
    Place().fields(job(), {"status": status})
    assert slept.count(ENDING_S) == waits  # subprocess waits too, for milliseconds


def test_fewer_cores_than_threads_are_as_bad_as_another_job(in_a_job, job) -> None:
    in_a_job()
    place = Place()
    fields = place.fields(job(threads=os.cpu_count() + 1), {"status": "ok", "message": "slow"})
    assert fields["co_scheduled"]
    assert fields["message"].startswith("slow; the job has ")


def test_a_job_that_is_queued_again_goes_on_and_gives_up_a_cell_that_ends_it_each_time(
    in_a_job, sweep, tmp_path: Path
) -> None:
    in_a_job()
    file = tmp_path / "run" / "slurm" / "001" / "3.json"
    packs.write(Pack(sweep[:4]), file)
    journal = Journal(file)
    journal.begin(0)
    journal.end(0, tmp_path / "run" / "kept" / "record.json")
    for _ in range(ended.TRIES):
        journal.begin(1)
    journal.begin(2)
    assert _run(file) == 0
    seen = {one["method"] + str(one["seed"]): one for one in record.records(tmp_path / "run")}
    assert seen.keys() == {"b2", "a0", "b0"}, "the finished cell is not run again"
    assert (seen["b2"]["status"], seen["b2"]["attempt"]) == ("crashed", 3)
    assert "3 jobs ended while the cell ran" in seen["b2"]["message"]
    assert seen["b2"]["method_hash"] == CODE["method_hash"]
    assert [seen[name]["attempt"] for name in ("a0", "b0")] == [2, 1]


def records(run: Path) -> list[Path]:
    return [*run.glob("**/record.json")]


class Pretended:
    """A cluster that runs each job at once. Its jobs end in given states, by the method that runs then."""

    def __init__(self, monkeypatch, **ends: list[str]) -> None:
        self.ends = ends
        self.arrays: list[list[list[str]]] = []  # of each: the names of the cells of each pack
        self.nodes: list[str | None] = []  # that were asked for, of each array
        self.known: dict[str, State] = {}
        self.cancelled: set[str] = set()
        self.prints = ""  # of each job
        self.refusals: list[str] = []  # of sbatch
        for name, value in {
            "check": lambda slurm, needs: None,
            "submit": self.submit,
            "largest_array": lambda: 2,
            "states": lambda numbers: {number: self.known.get(number, State("UNKNOWN")) for number in numbers},
            "numbers": lambda name: [],
            "cancel": self.cancelled.update,
        }.items():
            monkeypatch.setattr(scheduler, name, value)
        monkeypatch.setattr(waiting, "SOON_S", 0.0)
        monkeypatch.setattr(waiting, "Launcher", Noting)

    def submit(self, run, files, parameters, folder) -> list[str]:
        if self.refusals:
            raise scheduler.SchedulerError(self.refusals.pop(0))
        number = len(self.arrays)
        self.nodes.append(parameters["additional_parameters"].get("nodelist"))
        self.arrays.append([[one.name for one in packs.read(file).cells] for file in files])
        folder.mkdir()
        for place, file in enumerate(files):
            (folder / f"{number}_{place}_0_log.err").write_text(self.prints)
            self.known[f"{number}_{place}"] = self._run(file)
        return [f"{number}_{place}" for place in range(len(files))]

    def _run(self, file: Path) -> State:
        journal, pack = Journal(file), packs.read(file)
        for at, one in enumerate(pack.cells):
            if self.ends.get("before"):
                return State(self.ends["before"].pop(0))
            journal.begin(at)
            if self.ends.get(one.job.method):
                packs_file = journal.run / one.job.key / "job.json"
                record.write_json(json.loads(json.dumps(dataclasses.asdict(one.job))), packs_file)
                return State(self.ends[one.job.method].pop(0))
            path = journal.run / one.job.key / "record.json"
            record.write(one.job.fields() | CODE | {"status": "ok", "attempt": 1, "node": "n1"}, path)
            journal.end(at, path)
        return State("COMPLETED", "0:0")


@pytest.fixture
def eight(sweep) -> list[Measured]:
    """The first round."""
    return sweep[:8]


def statuses(run: Path) -> dict[str, str]:
    return {f"{one['method']}{one['seed']}": one["status"] for one in record.records(run)}


def test_jobs_that_end_by_chance_are_submitted_again_without_what_is_done(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["NODE_FAIL", "PREEMPTED"])
    paths = waiting.run(eight, OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [record.read(path)["seed"] for path in paths] == [one.job.seed for one in eight]
    assert statuses(tmp_path) == {f"{method}{seed}": "ok" for method in "ab" for seed in range(4)}
    assert cluster.arrays[:2] == [
        [["a 2 0", "b 2 0", "a 0 0", "b 0 0"], ["a 1 0", "b 1 0"]],
        [["a 3 0", "b 3 0"]],
    ]
    assert [*itertools.chain(*cluster.arrays[2:])] == [["b 2 0", "a 0 0", "b 0 0"], ["b 1 0"]]


@pytest.mark.parametrize(("state", "tries"), [("OUT_OF_MEMORY", 2), ("TIMEOUT", 2), ("NODE_FAIL", 3)])
def test_a_record_without_its_line_in_the_journal_counts(eight, tmp_path: Path, monkeypatch, state, tries) -> None:
    cluster = Pretended(monkeypatch, b=[state] * tries)
    run = cluster._run

    def ends_late(file: Path) -> State:
        seen = run(file)
        if len(cluster.arrays) == tries:
            one = eight[1].job
            record.write(one.fields() | CODE | {"status": "ok", "attempt": 1}, tmp_path / one.key / "record.json")
        return seen

    monkeypatch.setattr(cluster, "_run", ends_late)
    waiting.run(eight[:2], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [one["status"] for one in record.records(tmp_path)] == ["ok", "ok"]


def test_a_cell_that_ends_its_job_as_it_runs_again_after_a_crash_has_one_record(
    eight, tmp_path: Path, monkeypatch
) -> None:
    cluster = Pretended(monkeypatch, b=["NODE_FAIL"] * 3)
    run = cluster._run

    def crashes(file: Path) -> State:
        seen, one = run(file), eight[1].job
        record.write(one.fields() | CODE | {"status": "crashed", "attempt": 1}, tmp_path / one.key / "record.json")
        return seen

    monkeypatch.setattr(cluster, "_run", crashes)
    waiting.run(eight[:2], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [(one["status"], one["attempt"]) for one in record.records(tmp_path) if one["method"] == "b"] == [
        ("crashed", 3)
    ]


def test_a_job_whose_time_is_over_asks_for_the_record_before_it_writes_one(
    in_a_job, sweep, tmp_path: Path, monkeypatch
) -> None:
    in_a_job()
    file = tmp_path / "run" / "slurm" / "001" / "3.json"
    packs.write(Pack(sweep[:1]), file)
    monkeypatch.setattr("harness.cluster.job._end_in_time", lambda left_s: lambda: bool(records(tmp_path)))
    end = Journal.end

    def interrupted(self, at, path) -> None:
        monkeypatch.setattr(Journal, "end", end)
        raise program.Interrupted

    monkeypatch.setattr(Journal, "end", interrupted)
    with pytest.raises(program.Interrupted):
        _run(file)
    (path,) = records(tmp_path)
    assert record.read(path)["status"] == "ok"
    journal = Journal(file)
    journal.follow()
    assert journal.records == {0: path}


def test_a_cell_that_ends_its_job_each_time_is_crashed_and_the_others_are_measured(
    eight, tmp_path: Path, monkeypatch
) -> None:
    cluster = Pretended(monkeypatch, b=["NODE_FAIL"] * 3)
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok", "b2": "crashed", "a0": "ok", "b0": "ok"}
    assert len(cluster.arrays) == 4
    (lost,) = (one for one in record.records(tmp_path) if one["status"] == "crashed")
    assert (lost["attempt"], lost["slurm_job"]) == (3, "2_0")
    assert lost["method_hash"] == CODE["method_hash"], "so that resume knows it"


@pytest.mark.parametrize(
    ("states", "nodes"),
    [(["TIMEOUT"], [None, "n1"]), (["PREEMPTED", "FAILED"], [None, "n1", "n1"]), (["NODE_FAIL"], [None, None])],
)
def test_the_rest_of_a_pack_is_measured_on_the_node_of_its_first_cells(
    eight, tmp_path: Path, monkeypatch, states, nodes
) -> None:
    cluster = Pretended(monkeypatch, b=states)
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert cluster.nodes == nodes


def test_jobs_that_do_not_start_are_not_counted_as_ended_while_a_cell_ran(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, before=["FAILED"] * 2, a=["FAILED"] * 2)
    paths = waiting.run(eight[:1], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [record.read(path)["status"] for path in paths] == ["ok"]
    assert len(cluster.arrays) == 5
    assert packs.read(tmp_path / "slurm" / "005" / "0.json").attempt == 3


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "TIMEOUT"])
def test_a_cell_that_ends_a_job_with_other_cells_is_run_first_in_another(
    eight, tmp_path: Path, monkeypatch, state
) -> None:
    cluster = Pretended(monkeypatch, b=[state])
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok", "b2": "ok", "a0": "ok", "b0": "ok"}
    assert len(cluster.arrays) == 2


@pytest.mark.parametrize(("state", "status"), [("OUT_OF_MEMORY", "oom"), ("TIMEOUT", "timeout")])
def test_a_cell_for_which_a_job_of_its_own_does_not_do_is_recorded_so(
    eight, tmp_path: Path, monkeypatch, state, status
) -> None:
    cluster = Pretended(monkeypatch, b=[state] * 2)
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok", "b2": status, "a0": "ok", "b0": "ok"}
    assert len(cluster.arrays) == 3


@pytest.mark.parametrize("ends", [["CANCELLED"], ["FAILED"] * 4])
def test_jobs_that_were_cancelled_or_never_begin_a_cell_are_not_submitted_for_ever(
    eight, tmp_path: Path, monkeypatch, ends
) -> None:
    cluster = Pretended(monkeypatch, before=list(ends))
    with pytest.raises(ConfigError, match=f"cells without a record: 4; job .* ended: {ends[0]}.*resume={tmp_path}"):
        waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert len(cluster.arrays) == min(len(ends), ended.TRIES)
    cluster.ends = {}
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)  # as with resume
    assert set(statuses(tmp_path).values()) == {"ok"}


def test_a_job_that_slurm_cancels_for_its_memory_was_not_cancelled_by_a_user(
    eight, tmp_path: Path, monkeypatch
) -> None:
    cluster = Pretended(monkeypatch, b=["CANCELLED"] * 2)
    cluster.prints = "slurmstepd: error: Job 1 exceeded memory limit (2 > 1), being killed\n"
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok", "b2": "oom", "a0": "ok", "b0": "ok"}


def test_resume_waits_for_what_is_queued_and_submits_what_is_lost(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["PENDING", "NODE_FAIL"])
    monkeypatch.setattr("time.sleep", _killed)
    with pytest.raises(_Killed):
        waiting.run(eight[:6], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert len(cluster.arrays) == 2
    monkeypatch.setattr("time.sleep", lambda seconds: cluster.known.update({"0_0": State("COMPLETED")}))
    waiting.run(eight[:6], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [*itertools.chain(*cluster.arrays[2:])] == [["b 3 0"], ["b 2 0", "a 0 0", "b 0 0"]]
    assert set(statuses(tmp_path).values()) == {"ok"}
    count = len(cluster.arrays)
    waiting.run(eight[:6], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert len(cluster.arrays) == count, "all is done"


def test_what_is_recorded_while_resume_looks_is_not_submitted_again(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["RUNNING"])
    monkeypatch.setattr("time.sleep", _killed)
    with pytest.raises(_Killed):
        waiting.run(eight[:4], OPTIONS, tmp_path, resumes=False, cancels=False)
    latest = Submissions.latest

    def late(self, wanted):
        cluster.known["0_0"] = cluster._run(tmp_path / "slurm" / "001" / "0.json")
        return latest(self, wanted)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(Submissions, "latest", late)
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert len(cluster.arrays) == 1
    assert set(statuses(tmp_path).values()) == {"ok"}


class _Killed(Exception):
    pass


def _killed(seconds: float) -> None:
    raise _Killed


def test_jobs_of_a_comparison_end_with_what_submitted_them(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["PENDING"])
    monkeypatch.setattr("time.sleep", _killed)
    with pytest.raises(_Killed):
        waiting.run(eight[:2], OPTIONS, tmp_path, resumes=True, cancels=True)
    assert cluster.cancelled == {"0_0"}


def test_jobs_of_a_comparison_end_though_the_signal_comes_between_two_arrays(
    sweep, tmp_path: Path, monkeypatch
) -> None:
    cluster = Pretended(monkeypatch, b=["PENDING"] * 2)
    monkeypatch.setattr(scheduler, "numbers", lambda name: ["1_0", "1_1"] if name.endswith("-002") else [])
    submit = cluster.submit

    def interrupted(*arguments) -> list[str]:
        seen = submit(*arguments)
        if len(cluster.arrays) == 2:
            raise _Killed
        return seen

    monkeypatch.setattr(scheduler, "submit", interrupted)
    with pytest.raises(_Killed):
        waiting.run(sweep, OPTIONS, tmp_path, resumes=True, cancels=True)
    assert cluster.cancelled == {"0_0", "0_1", "1_0", "1_1"}


def test_what_sbatch_refuses_is_submitted_later_while_there_are_jobs(
    sweep, tmp_path: Path, monkeypatch, capsys
) -> None:
    cluster = Pretended(monkeypatch, b=["PENDING"])
    submit = cluster.submit

    def full(*arguments) -> list[str]:
        cluster.refusals = ["sbatch refuses: QOSMaxSubmitJobPerUserLimit"] * (len(cluster.arrays) == 1)
        return submit(*arguments)

    looks = iter(range(10))

    def look(seconds: float) -> None:
        if next(looks) == 2:
            monkeypatch.setattr(scheduler, "submit", submit)
            cluster.known["0_0"] = State("NODE_FAIL")

    monkeypatch.setattr(scheduler, "submit", full)
    monkeypatch.setattr("time.sleep", look)
    waiting.run(sweep, OPTIONS, tmp_path, resumes=True, cancels=False)
    assert {one["status"] for one in record.records(tmp_path)} == {"ok"}
    assert capsys.readouterr().err.count("QOSMaxSubmitJobPerUserLimit; trying again") == 1
    assert all((folder / "ids.json").exists() for folder in (tmp_path / "slurm").glob("[0-9]*"))


def test_what_sbatch_refuses_at_once_is_one_line(eight, tmp_path: Path, monkeypatch) -> None:
    Pretended(monkeypatch).refusals = ["sbatch refuses: Invalid account"]
    with pytest.raises(ConfigError, match=f"sbatch refuses: Invalid account; go on with resume={tmp_path}"):
        waiting.run(eight, OPTIONS, tmp_path, resumes=True, cancels=False)


@pytest.mark.parametrize("times", [waiting.LOOKS - 1, waiting.LOOKS])
def test_sbatch_may_fail_for_a_moment_though_no_job_is_left(eight, tmp_path: Path, monkeypatch, times) -> None:
    cluster = Pretended(monkeypatch, b=["NODE_FAIL"])
    refusals = ["sbatch refuses: Socket timed out"] * times
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(cluster, "refusals", refusals))
    fails = contextlib.nullcontext() if times < waiting.LOOKS else pytest.raises(ConfigError, match="Socket timed out")
    with fails:
        waiting.run(eight[:2], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok"} | ({"b2": "ok"} if times < waiting.LOOKS else {})


def test_a_job_of_which_slurm_knows_nothing_for_some_time_is_lost(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["UNKNOWN"])
    looks = []
    monkeypatch.setattr("time.sleep", looks.append)
    waiting.run(eight[:2], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert statuses(tmp_path) == {"a2": "ok", "b2": "ok"}
    assert (len(cluster.arrays), len(looks)) == (2, waiting.LOOKS + 1)


def test_a_spoiled_pack_is_named_in_a_line(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["PENDING"])
    monkeypatch.setattr("time.sleep", _killed)
    with pytest.raises(_Killed):
        waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    pack = tmp_path / "slurm" / "001" / "0.json"
    pack.write_text("{")
    with pytest.raises(ConfigError, match=f"{pack} is no pack .* delete it"):
        waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    pack.unlink()
    cluster.ends = {}
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert len(record.records(tmp_path)) == 4


def test_the_latest_array_of_more_than_999_is_the_one_with_the_largest_number(
    eight, tmp_path: Path, monkeypatch
) -> None:
    for array in ("999", "1000"):
        packs.write(Pack(eight[:1]), tmp_path / "slurm" / array / "0.json")
        record.write_json({"jobs": [f"{array}_0"]}, tmp_path / "slurm" / array / "ids.json")
    (task,) = Submissions(tmp_path, OPTIONS).latest({packs.identity(eight[0])})
    assert task.number == "1000_0"


def test_a_new_run_does_not_take_the_records_of_another(eight, tmp_path: Path, monkeypatch) -> None:
    Pretended(monkeypatch)
    waiting.run(eight[:2], OPTIONS, tmp_path / "run", resumes=False, cancels=False)
    record.write_json({}, tmp_path / "run" / "cell" / "job.json")
    with pytest.raises(ConfigError, match="holds a run already; go on with it by resume="):
        waiting.run(eight[:2], OPTIONS, tmp_path / "run", resumes=False, cancels=False)


def test_cells_of_changed_code_are_submitted_again(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch)
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    monkeypatch.setitem(CODE, "method_hash", "another")
    monkeypatch.setattr(waiting, "Launcher", lambda: Noting(method_hash="another"))
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert [len(array) for array in cluster.arrays] == [1, 1]


def test_of_changed_code_and_lost_jobs_each_cell_is_submitted_once(eight, tmp_path: Path, monkeypatch) -> None:
    cluster = Pretended(monkeypatch, b=["NODE_FAIL", "PENDING"])
    waits = State("PENDING")
    monkeypatch.setattr("time.sleep", lambda seconds: _killed(seconds) if waits in cluster.known.values() else None)
    with pytest.raises(_Killed):
        waiting.run(eight[:4], OPTIONS, tmp_path, resumes=False, cancels=False)
    cluster.known["1_0"] = State("NODE_FAIL")
    monkeypatch.setitem(CODE, "method_hash", "another")
    monkeypatch.setattr(waiting, "Launcher", lambda: Noting(method_hash="another"))
    waiting.run(eight[:4], OPTIONS, tmp_path, resumes=True, cancels=False)
    assert sorted(itertools.chain(*itertools.chain(*cluster.arrays[2:]))) == ["a 0 0", "a 2 0", "b 0 0", "b 2 0"]


def test_the_keys_of_the_launcher_are_checked(harness) -> None:
    for arguments, words in (
        (["launcher.time_min=0"], "launcher.time_min=0 must be a whole number of at least 1"),
        (["+launcher.nodes=2"], "launcher.nodes: no such key; the keys are account, at_once,"),
        (["workers=2", "passes=[agreement]"], "with launcher=slurm, set launcher.at_once"),
    ):
        done = harness("launcher=slurm", *arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_times_of_two_nodes_do_not_compare_and_a_report_says_so(tmp_path: Path) -> None:
    found = judged(tmp_path, [cell(node="n1")], [cell(node="n2", seconds=0.02)]).iloc[0]
    assert "times do not compare (node n1 and n2)" in found["reason"]
    frame = record.load(stored(tmp_path / "run", [cell(node="n1"), cell("other", node="n2")]))
    assert record.remarks(frame) == ["measured on several nodes, so that their times do not compare: mlp"]
    frame = record.load(stored(tmp_path / "apart", [cell(node="n1"), cell(node="n2", seed=1)]))
    assert record.remarks(frame) == []
    sizes = [cell(node=f"n{size}", problem_options=f'{{"width": {size}}}') for size in (1, 2, 3)]
    (remark,) = record.remarks(record.load(stored(tmp_path / "sizes", sizes)))
    assert remark == "sizes measured on several nodes, so that growth with P compares the nodes too: mlp"
