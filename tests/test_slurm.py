"""Sweeps as jobs of a real Slurm, which is started here; skipped where its programs are missing."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import record
from harness.cluster import scheduler
from tests import slurm
from tests.processes import Program, start
from tests.test_sweep import cells

pytest.importorskip("submitit", reason="submitit is not installed: pip install '.[slurm]'")
reason = slurm.missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

ROOT = Path(__file__).parent.parent
CELLS = ["problem=quadratic", "method=create_graph_rows", "dtype=float64", "passes=[exact]"]
SWEEP = [
    "-m",
    "problem=quadratic,rosenbrock",
    "method=create_graph_rows,func_hessian,jacfwd_grad,vmap_hvp",
    "seed=0,1,2,3,4",
    "dtype=float64",
    "passes=[exact]",
]
SHARED = ["launcher=slurm", "launcher.exclusive=false", "launcher.memory_gb=4"]  # so that tests can go on beside
WAIT_S = 100.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> dict[str, str]:
    with slurm.running(tmp_path_factory.mktemp("slurm") / "daemons") as env, pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, env[name])
        yield env


@pytest.fixture(scope="module")
def out_of_time(cluster, tmp_path_factory) -> tuple[Program, Path]:
    """A run whose cell takes longer than a job may, which takes a minute: begun before the other tests."""
    run = tmp_path_factory.mktemp("time") / "run"
    target = "method._target_=tests.slurm_cells.endless"
    with start(*CELLS, target, *SHARED, "launcher.time_min=1", "limit_s=1000", f"output={run}") as program:
        yield program, run


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def jobs(state: str) -> list[str]:
    return scheduler.output_of("squeue", "-h", "-r", "-t", state, "-o", "%i").split()


def test_a_sweep_as_jobs_equals_a_local_one_though_its_submitter_is_killed_and_a_job_is_queued_again(
    out_of_time, tmp_path: Path
) -> None:
    run, local = tmp_path / "run", tmp_path / "local"
    asked = [*SWEEP, *SHARED, "launcher.pack=16"]
    with start(*asked, f"output={run}") as first:
        until(lambda: list(run.glob("*/record.json")))
        first.process.kill()
    (array,) = (run / "slurm").glob("0*")
    own = record.content(array / "ids.json").decode()
    running = next(number for number in jobs("RUNNING") if f'"{number}"' in own)
    scheduler.output_of("scontrol", "requeue", running)
    until(lambda: running in jobs("PENDING"))
    # By itself Slurm waits for two minutes. Sooner than in two seconds it would refuse the job's old credential.
    scheduler.output_of("scontrol", "update", f"JobId={running}", "StartTime=now+4")
    with start(*asked, f"resume={run}") as second, start(*SWEEP, f"output={local}") as on_this_machine:
        status, out, err = second.end(WAIT_S)
        assert status == 0, out + err
        assert on_this_machine.end(WAIT_S)[0] == 0
    assert list((run / "slurm").glob("0*")) == [array], "what was queued or running is not submitted again"
    assert len(list(array.glob("[0-9].json"))) == 3
    assert "Restarts=1" in scheduler.output_of("scontrol", "show", "job", running)
    assert sum(cells(run).values()) == sum(cells(local).values()) == 40
    columns = ["problem", "method", "seed", "status", *record.COUNTERS]
    ours, theirs = (
        record.load(folder)[columns].sort_values(columns[:3]).reset_index(drop=True) for folder in (run, local)
    )
    assert ours.equals(theirs), (ours, theirs)
    frame = record.load(run)
    assert frame.groupby(["problem", "seed"])["slurm_job"].nunique().max() == 1, "what is compared is in one job"
    assert {*frame["node"]} == {*scheduler.output_of("sinfo", "-h", "-N", "-o", "%N").split()}
    assert frame["co_scheduled"].eq(True).any(), "two of the jobs run at once, or that without end beside them"


def test_a_cell_over_its_memory_ends_alone_and_one_beside_another_job_is_marked(out_of_time, tmp_path: Path) -> None:
    run = tmp_path / "run"
    beside = scheduler.output_of("sbatch", "--parsable", "--mem=100M", "--output=/dev/null", "--wrap=sleep 300").strip()
    until(lambda: beside in jobs("RUNNING"))
    targets = "method._target_=methods.create_graph_rows.hessian,tests.slurm_cells.greedy"
    with start("-m", *CELLS, targets, *SHARED, "launcher.memory_gb=3", "seed=1", f"output={run}") as program:
        status, out, err = program.end(WAIT_S)
    scheduler.cancel([beside])
    assert status == 0, out + err
    seen = record.load(run).set_index("target")
    greedy = seen.loc["tests.slurm_cells.greedy"]
    assert greedy["status"] == "oom", greedy["message"]
    assert re.search(r"job \d+ for its memory .*slurmstepd.*launcher.memory_gb", greedy["message"])
    marked = seen.loc["methods.create_graph_rows.hessian"]
    assert marked["status"] == "ok"
    assert marked["co_scheduled"] == marked["contended"] == True  # noqa: E712  a numpy value
    assert "another job ran on this node" in marked["message"]


def test_a_cell_over_the_time_of_its_job_is_a_timeout(out_of_time) -> None:
    program, run = out_of_time
    status, out, err = program.end(WAIT_S)
    assert status == 1, out + err
    (seen,) = record.records(run)
    assert seen["status"] == "timeout"
    assert "launcher.time_min" in seen["message"]
    assert seen["slurm_job"] in seen["message"]
    assert seen["method_hash"] is not None


def test_a_whole_node_is_asked_for_and_mistakes_are_one_line(cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = [*CELLS, "launcher=slurm", f"output={run}"]
    for wrong, words in (
        ("launcher.partition=none", "launcher.partition=none: there is none; choose of ci"),
        ("+launcher.sbatch.constraint=fast", "sbatch refuses: sbatch: error: .*Invalid feature specification"),
    ):
        status, _, err = start(*asked, wrong).end()
        assert status == 1
        assert re.fullmatch(f"harness: {words}.*\n", err), err
    status, out, err = start(*asked).end(WAIT_S)
    assert status == 0, out + err
    (seen,) = record.records(run)
    assert (seen["status"], seen["co_scheduled"]) == ("ok", False)
    assert "OverSubscribe=NO" in scheduler.output_of("scontrol", "show", "job", seen["slurm_job"])


@pytest.mark.slow
def test_hydras_own_launcher_works_too(cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"timeout_min": 5, "cpus_per_task": 1, "mem_gb": 4}
    launcher = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{name}={value}" for name, value in options.items())]
    status, out, err = start("-m", *CELLS, "seed=0,1", *launcher, f"output={run}").end(2 * WAIT_S)
    assert status == 0, out + err
    assert [one["status"] for one in record.records(run)] == ["ok", "ok"]
    assert (run / "report" / "index.html").exists()
