"""Cells in real processes: whatever a method or problem does, a record with the right status comes back."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import record
from harness.run.launcher import Launcher
from harness.run.outcome import STUCK_S, merged


def test_a_right_cell_has_every_measurement(run, tmp_path: Path) -> None:
    seen = run()
    assert seen["status"] == "ok"
    assert seen["params"] == 3 * 3 + 3 + 3 * 2 + 2
    assert len(seen["times_s"]) >= 2
    assert min(seen["times_s"]) > 0
    assert min(seen["gradient_s"]) > 0
    assert seen["output_bytes"] == seen["params"] ** 2 * 8
    assert seen["tensor_peak_bytes"] >= seen["output_bytes"]
    assert seen["relative_error"] < 1e-12
    assert seen["reference"] == "double_backward"
    assert seen["reference_error"] < 1e-8
    assert seen["torch"]
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"job.json", "log.txt", "record.json"}
    assert seen["operations"] > 0
    assert seen["allocations"] > 0
    assert seen["flops"] > 0
    assert seen["gemm_flops_per_s"] > 0
    assert seen["samples"] == 8
    assert record.read(folder / "record.json") == seen


@pytest.mark.parametrize("quantity", ["diagonal", "hvp"])
def test_other_quantities(run, quantity: str) -> None:
    seen = run(quantity=quantity, target=f"methods.create_graph_rows.{quantity}")
    assert seen["status"] == "ok"
    assert seen["output_bytes"] == seen["params"] * 8 * (2 if quantity == "hvp" else 1)


@pytest.mark.parametrize(
    ("method", "status", "words"),
    [
        ("crash", "crashed", "SIGSEGV"),
        ("leave", "crashed", "exit status 3"),
        ("leaves", "error", "enough"),
        ("nan", "nonfinite", "400 of 400 entries are NaN"),
        ("wrong", "wrong", "relative error 1.0e-03; float64 is right up to 1e-12"),
        ("wrong_shape", "wrong", "returned shape (20,); hessian of 20 parameters has shape (20, 20)"),
        ("wrong_dtype", "wrong", "returned torch.float32 on cpu; asked for torch.float64"),
        ("attached", "ok", "result.detach()"),
        ("nothing", "wrong", "returned NoneType, not a tensor"),
        ("hungry", "oom", "smaller chunk_size"),
        ("absent", "unsupported", "no function absent"),
    ],
)
def test_a_faulty_method_is_a_row(run, method: str, status: str, words: str) -> None:
    seen = run(target=f"tests.faulty.{method}")
    assert (seen["status"], words in seen["message"]) == (status, True), seen["message"]
    assert run()["status"] == "ok", "the next cell must run as if nothing had happened"


def test_a_method_that_leaves_traces_is_told_so(run) -> None:
    seen = run(target="tests.faulty.theta_in_place")
    assert seen["status"] == "error"
    assert "tests.faulty.theta_in_place changed theta" in seen["message"]
    assert "work on copies" in seen["message"]
    assert run()["status"] == "ok", "the next cell must run as if nothing had happened"


def test_a_first_call_alone_within_the_limit_is_a_time(run) -> None:
    seen = run(target="tests.faulty.half_a_second", limit_s=1.7)
    assert (seen["status"], seen["times_s"]) == ("ok", None)
    assert 0.6 < seen["first_s"] < 1.0
    assert "after the first call, whose time stands for all" in seen["message"]
    assert seen["relative_error"] < 1e-12


@pytest.mark.parametrize(
    ("running", "worked_s", "status"),
    [
        ("fresh call", 3.0, "timeout"),
        ("fresh call", 30.0 - STUCK_S / 2, "ok"),  # too little time was left to say so
        (None, 3.0, "ok"),  # the harness's own work, as a reference at another point
    ],
)
def test_only_a_call_of_the_method_that_does_not_end_speaks_against_it(job, running, worked_s, status) -> None:
    told = {
        "status": "timeout",
        "message": "the time pass took longer than limit_s=30",
        "first_s": 1e-3,
        "times_s": [1e-3, 1e-3],
        "running": running,
        "worked_s": worked_s,
    }
    seen = merged(job(limit_s=30.0), {"status": "ok"}, "time", told)
    assert seen["status"] == status
    assert ("looked up what had been computed before" in seen["message"]) == (status == "timeout")
    assert ("not all its columns are filled" in seen["message"]) == (status == "ok")


class Told(Launcher):
    """A launcher whose passes return what they are told, and that notes which were asked for."""

    def __init__(self, **told: list[dict]) -> None:
        super().__init__()
        self.told = {part: iter(entries) for part, entries in told.items()}
        self.asked: list[str] = []

    def _ask(self, job, part, folder, truth=None):
        self.asked.append(part)
        return {"worked_s": 1.0} | next(self.told[part])


@pytest.mark.parametrize(("status", "times"), [("ok", 1), ("timeout", 1), ("crashed", 3), ("oom", 3), ("error", 3)])
def test_a_reference_that_failed_by_chance_is_computed_again(job, tmp_path: Path, status: str, times: int) -> None:
    told = {"status": status, "message": None if status == "ok" else "why"}
    with Told(reference=[told] * 3, agreement=[{"status": "ok"}] * 3) as launcher:
        for method in ("one", "another", "a third"):
            seen = record.read(launcher.run(job(method=method, passes=("agreement",)), tmp_path))
            assert seen["status"] == status
        assert launcher.asked.count("reference") == times


def test_a_later_round_that_takes_only_times_is_judged_by_the_first(job, tmp_path: Path) -> None:
    right = {"first": [3.0, 4.0], "last": [3.0, 4.0], "products": [3.0]}
    other = right | {"last": [3.0, 4.1]}
    times = {"first_s": 1e-3, "times_s": [1e-3], "status": "ok"}
    agreement = {"status": "ok", "tolerance": 1e-12, "checked": {"numbers": [3.0, 4.0], "size": None}}
    rounds = [times | {"timed": told} for told in (right, right, other, other)]
    both = job(passes=("time", "agreement"))
    later = [job(passes=("time",), round=1), job(passes=("time",), round=2), job(passes=("time",), round=2, seed=1)]
    told = {"rates": [{}], "time": rounds, "reference": [{"status": "ok"}], "agreement": [agreement]}
    with Told(**told) as launcher:
        seen = [record.read(launcher.run(each, tmp_path)) for each in (both, *later)]
    assert [one["status"] for one in seen] == ["ok", "ok", "wrong", "ok"], "of another seed nothing was checked"
    assert "the last timed call returned another result than the call that was checked" in seen[2]["message"]
    assert seen[1]["tolerance"] is None


def test_a_peer_that_is_not_installed_says_how_to_install_it(run) -> None:
    seen = run(target="tests.method_without_its_package.hessian")
    assert (seen["status"], seen["message"]) == (
        "unsupported",
        "tests.method_without_its_package needs the package a_package_that_nobody_has, which is not installed: install "
        "a_package_that_nobody_has",
    )
    for peer, extra in (("laplace", "peers"), ("jax", "jax")):
        if importlib.util.find_spec(peer) is None:
            seen = run(target=f"methods.peers.{peer}.hessian")
            assert seen["status"] == "unsupported"
            assert seen["message"].endswith(
                f"needs the package {peer}, which is not installed: pip install '.[{extra}]'"
            )


@pytest.mark.slow
def test_what_is_compiled_is_told_and_its_memory_is_without_the_compilation(run) -> None:
    seen = run(target="methods.func_hessian.hessian", method_options={"compile": True}, limit_s=120.0)
    assert (seen["status"], seen["compiled_graphs"], seen["graph_breaks"]) == ("ok", 1, 0), seen["message"]
    assert seen["first_s"] > 20 * max(seen["times_s"])  # seconds of compilation, against milliseconds
    assert seen["operations"] is None
    assert seen["process_peak_bytes"] < 20e6
    broken = run(target="tests.faulty.compiled_with_a_break", limit_s=120.0)
    assert (broken["status"], broken["graph_breaks"]) == ("ok", 1), broken["message"]
    assert run()["compiled_graphs"] is None


def test_a_segmentation_fault_in_torch_is_a_crashed_row(run) -> None:
    """torch.func.linearize of the gradient of mse_loss (torch 2.13)."""
    options = {"composition": "linearize"}
    problem = {"width": 2, "batch": 4, "task": "regression"}
    seen = run(target="methods.vmap_hvp.hessian", method_options=options, problem_options=problem)
    assert (seen["status"], "SIGSEGV" in seen["message"]) == ("crashed", True)


@pytest.mark.parametrize(
    ("quantity", "target", "output_bytes"),
    [
        ("block_diagonal", "methods.create_graph_rows.block_diagonal", 8 * (9**2 + 3**2 + 6**2 + 2**2)),
        ("ggn", "methods.vmap_ggn.ggn", 8 * 20**2),
        ("diagonal", "methods.hutchinson.diagonal", 2 * 8 * 20),
    ],
)
def test_quantities_that_are_no_single_exact_tensor(run, quantity: str, target: str, output_bytes: int) -> None:
    seen = run(quantity=quantity, target=target)
    assert (seen["status"], seen["output_bytes"]) == ("ok", output_bytes)
    assert (seen["hessian_distance"] is not None) == (quantity == "ggn")
    assert (seen["standard_error"] is not None) == (quantity == "diagonal")


def test_a_memory_limit_is_a_real_one(run) -> None:
    seen = run(target="tests.faulty.one_gigabyte", memory_limit_gb=0.5)
    assert seen["status"] == "oom"
    assert "smaller chunk_size" in seen["message"]
    assert run(target="tests.faulty.one_gigabyte", memory_limit_gb=3.0)["status"] == "ok"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("vector_loss", "must be a scalar (a tensor of shape ()), found (3,)"),
        ("constant_loss", "does not depend on its parameters"),
        ("no_problem", "returned int"),
        ("raises", "the data file"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_faulty_problem_is_a_row(run, problem: str, words: str) -> None:
    seen = run(problem_target=f"tests.faulty.{problem}", problem_options={})
    assert seen["status"] == "error"
    assert words in seen["message"]


def test_a_time_limit_kills_the_cell_and_its_children(run, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    seen = run(target="tests.faulty.spawn_and_sleep", method_options={"pid_file": str(pid_file)}, limit_s=1.0)
    assert seen["status"] == "timeout"
    assert "limit_s=1" in seen["message"]
    assert seen["params"] == 20, "what was known before the call is kept"
    assert time.monotonic() - began < 20, "it must not wait for the sleepers' 60 s"
    with pytest.raises(ProcessLookupError):
        _wait_for_end(int(pid_file.read_text()))


def _wait_for_end(pid: int) -> None:
    for _ in range(100):
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # dead, not yet reaped by init
            raise ProcessLookupError
        time.sleep(0.05)


def test_a_memory_pass_that_takes_too_long_costs_its_column_only(run) -> None:
    seen = run(target="tests.faulty.slow_only_under_the_profiler", limit_s=5.0)
    assert seen["status"] == "ok"
    assert seen["tensor_peak_bytes"] is None
    assert seen["process_peak_bytes"] is not None
    assert "the exact pass took longer than limit_s=5" in seen["message"]


def test_the_servers_end_with_the_harness_even_when_it_is_killed(job, tmp_path: Path) -> None:
    values = job(target="tests.faulty.sleep")
    program = (
        "import sys, pathlib, dataclasses\n"
        "from harness.run.launcher import Launcher\n"
        "from harness.job import Job, Measure\n"
        f"job = {values!r}\n"
        "launcher = Launcher()\n"
        "server = launcher._server(job)\n"
        "print(server._process.pid, flush=True)\n"
        f"launcher.run(job, pathlib.Path({str(tmp_path)!r}))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    keeper = int(parent.stdout.readline())
    (server,) = _children(keeper)
    for _ in range(200):  # until the cell sleeps
        children = _children(server)
        if children:
            break
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for pid in (keeper, server, *children):
        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            _wait_for_end(pid)


def test_an_interpreter_without_torch_is_a_row(run) -> None:
    seen = run(interpreter="/nonexistent/python")
    assert seen["status"] == "error"
    assert "interpreter=/nonexistent/python cannot be started" in seen["message"]
    bare = "/usr/bin/python3"
    if Path(bare).exists():
        assert "cannot run cells" in run(interpreter=bare)["message"]


def test_another_interpreter_runs_the_cell_with_its_own_packages(run, tmp_path: Path) -> None:
    import sysconfig
    import venv

    venv.create(tmp_path / "other", with_pip=False, symlinks=True)
    python = tmp_path / "other" / "bin" / "python"
    (site,) = (tmp_path / "other" / "lib").glob("python*/site-packages")
    marks = "import os; os.environ['OMP_WAIT_POLICY'] = 'of the other interpreter'"  # Debian has its own sitecustomize
    (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n{marks}\n")
    seen = run(interpreter=str(python))
    assert (seen["status"], seen["interpreter"]) == ("ok", str(python)), seen["message"]
    assert seen["omp_wait_policy"] == "of the other interpreter"
    assert seen["torch"]
    assert run()["omp_wait_policy"] == "PASSIVE"


def test_allocator_and_threads_reach_the_process(launcher: Launcher, job, tmp_path: Path) -> None:
    path = launcher.run(job(target="tests.test_launch.environment_as_hessian", threads=2, allocator="tuned"), tmp_path)
    seen = record.read(path)
    told = json.loads(seen["message"].split("Told: ")[1].split(" ->")[0])
    assert told == {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_TRIM_THRESHOLD_": "-1", "threads": 2}


def environment_as_hessian(loss, theta):
    import torch

    names = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MALLOC_TRIM_THRESHOLD_"
    told = {name: os.environ.get(name) for name in names} | {"threads": torch.get_num_threads()}
    raise RuntimeError(f"Told: {json.dumps(told)}")


def test_the_server_forks_with_a_single_thread(launcher: Launcher, job) -> None:
    keeper = launcher._server(job(threads=2))._process.pid
    (server,) = _children(keeper)
    for pid in (keeper, server):
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
