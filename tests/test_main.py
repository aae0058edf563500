"""The command line: one cell, sweeps, mistakes, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness import program, record
from harness.run_folder import RunFolder
from tests.processes import with_signals
from tests.reliability import kills, streams

ROOT = Path(__file__).parent.parent


def only_record(run: Path) -> dict:
    (path,) = run.glob("*/record.json")
    return record.read(path)


def test_one_cell(harness, tmp_path: Path) -> None:
    done = harness("method=vmap_hvp", "method.chunk_size=5", "problem=quadratic", "dtype=float64")
    assert done.returncode == 0, done.stderr
    assert "vmap_hvp" in done.stdout
    assert "ok" in done.stdout
    assert str(tmp_path / "run") in done.stdout.replace("\n", "")
    seen = only_record(tmp_path / "run")
    assert (seen["status"], seen["reference"], seen["params"]) == ("ok", "closed_form", 20)
    assert json.loads(seen["method_options"])["chunk_size"] == 5
    assert (tmp_path / "LAST").resolve() == (tmp_path / "run").resolve()


def test_the_first_finding(harness, tmp_path: Path) -> None:
    """torch.func.hessian is silently off by percents under LayerNorm; the others are right."""
    done = harness("-m", "method=func_hessian,vmap_hvp,create_graph_rows", "problem.norm=layer", "problem.width=6")
    assert done.returncode == 0, done.stderr
    frame = record.load(tmp_path / "run").set_index("method")
    assert dict(frame["status"]) == {"func_hessian": "wrong", "vmap_hvp": "ok", "create_graph_rows": "ok"}
    assert frame.loc["func_hessian", "relative_error"] > 5e-3
    assert (tmp_path / "run" / "report" / "table.md").exists()


def test_the_seed_question(harness, tmp_path: Path) -> None:
    done = harness("+sweep=seed")
    assert done.returncode == 0, done.stderr
    frame = record.load(tmp_path / "run").set_index(["method", "quantity"])
    without = frame.loc[("double_loop_no_create_graph", "hessian")]
    assert without["status"] == "error"
    assert "element 0 of tensors does not require grad and does not have a grad_fn" in without["message"]
    assert "pass create_graph=True to the first torch.autograd.grad" in without["message"]
    read_as = frame.loc["double_loop"]
    assert dict(read_as["status"]) == {"hessian": "wrong", "diagonal": "ok"}
    assert read_as.loc["diagonal", "relative_error"] < 1e-12
    assert read_as.loc["hessian", "relative_error"] > 0.1
    for method in ("autograd_functional", "func_hessian", "vmap_hvp", "create_graph_rows"):
        assert frame.loc[(method, "hessian"), "status"] == "ok"


def test_a_sweep_with_mistakes_has_a_row_for_each(harness, tmp_path: Path) -> None:
    done = harness("-m", "method=create_graph_rows,no_such_method", "problem.width=3,0", "problem.batch=4")
    assert done.returncode == 0, done.stderr
    frame = record.load(tmp_path / "run")
    assert sorted(zip(frame["method"], frame["status"], strict=True)) == [
        ("create_graph_rows", "error"),
        ("create_graph_rows", "ok"),
        ("no_such_method", "error"),
        ("no_such_method", "error"),
    ]
    messages = " ".join(frame["message"].dropna())
    assert "width=0 must be a whole number of at least 1" in messages
    assert "Could not find 'method/no_such_method'" in messages
    assert "vmap_hvp" in messages, "it lists what there is"


def test_a_sweep_without_one_ok_cell_fails(harness, tmp_path: Path) -> None:
    done = harness("-m", "problem.widht=3,4")
    assert done.returncode == 1
    assert "widht" in done.stdout
    assert len(record.load(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=vmap_hvpp"], "Available options in 'method':"),
        (["problem=nosuch"], "Available options in 'problem':"),
        (["method.chunk_sise=3"], "method.chunk_sise=3: there is no such option of the method; conf/method/NAME.yaml"),
        (["-m", "method=hutchinson,hutchpp", "method.seed=3"], "so write method.seed=choice(3)"),
        (["+method.chunk_sise=3"], "its options are: composition, chunk_size, memory_budget_mb, compile"),
        (["method.chunk_size=-3"], "null for all at once, or auto for what fits memory_budget_mb; found -3"),
        (["method.chunk_size=many"], "null for all at once, or auto for what fits memory_budget_mb; found many"),
        (["resume=/no/such/run"], "resume=/no/such/run is no run folder"),
        (["resume=tests", "output=results"], "resume=tests and output=results are two folders"),
        (["--config-dir=/no/such/folder"], "'/no/such/folder' not found"),
        (["problem.width=0"], "width=0 must be a whole number of at least 1"),
        (["problem.width=wide"], "width='wide' must be a whole number"),
        (["threads=0"], "threads=0 must be a whole number of at least 1"),
        (["problem=custom"], "set problem._target_="),
        (["problem=custom", "problem._target_=no.such.function"], "cannot be imported"),
        (["problem=custom", "problem._target_=tests.faulty.vector_loss"], "the loss must be a scalar"),
        (["problem=custom", "problem._target_=tests.faulty.constant_loss"], "does not depend on its parameters"),
        (["problem=rosenbrock", "method=double_loop"], "asks for model, criterion, inputs, targets"),
        (["problem.task=regression"], "use reverse-over-reverse, method=vmap_hvp_reverse"),
        (["+colour=red"], "colour: no such key"),
        (["rounds=0"], "rounds=0 must be a whole number of at least 1"),
        (["output=README.md"], "output=README.md cannot be written to"),
        (["-m", "problem.width=2,3", "output=/proc/nowhere"], "output=/proc/nowhere cannot be written to"),
    ],
)
def test_a_mistake_gives_a_clear_message_and_a_failure(harness, arguments: list[str], words: str) -> None:
    done = harness(*arguments)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["++baseline=git:HEAD", "method=nosuch"], 3),
        (["+baseline=git:no_such_commit"], 3),
        (["+sweep=mine", "--nosuch"], 3),
        (["+sweep=mine", "baseline=null", "rounds=0"], 1),
        (["+sweep=of_cells"], 3),
        (["+sweep=of_grids"], 3),
        (["+sweep=broken", "baseline=git:HEAD"], 3),
    ],
)
def test_what_fails_beside_a_baseline_is_no_regression(harness, tmp_path: Path, arguments, status: int) -> None:
    """Status 3 wherever the merged configuration has a baseline: also in a sweep's file, also if another key fails."""
    (tmp_path / "sweep").mkdir()
    sweeps = {
        "mine": "baseline: git:no_such_commit",
        "of_cells": "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      baseline: git:HEAD",
        "of_grids": "hydra:\n  mode: MULTIRUN\n  sweeper:\n    grids:\n    - baseline: git:HEAD",
        "broken": "a: [1",
    }
    for name, text in sweeps.items():
        (tmp_path / "sweep" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    done = harness(f"--config-dir={tmp_path}", *arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_a_stream_that_fails_stops_no_cell(tmp_path: Path) -> None:
    streams.CASES["a cell, all closed"](tmp_path)


def test_an_interruption_while_a_program_imports_prints_no_traceback(tmp_path: Path) -> None:
    kills.CASES["SIGINT while harness.report imports"](tmp_path)


@pytest.mark.parametrize("module", ["mypackage", "mypackage.harness"])
def test_a_program_of_others_that_imports_records_keeps_its_signals_and_streams(tmp_path: Path, module: str) -> None:
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("import harness.record\n")
    seen = (
        "import signal, sys\n"
        "raw = getattr(sys.stdout.buffer, 'raw', sys.stdout.buffer)\n"
        "print(signal.getsignal(signal.SIGINT).__name__, type(raw).__name__)\n"
    )
    for name in ("__main__", "harness"):
        (package / f"{name}.py").write_text(seen)
    done = subprocess.run(
        [sys.executable, "-m", module, "-m", "harness"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=with_signals(),
    )
    assert done.stdout == "default_int_handler FileIO\n", done.stderr


@pytest.mark.parametrize(
    ("options", "arguments", "ours"),
    [
        ("-m harness", "-m x", True),
        ("-X dev -m harness.report", "run", True),
        ("-um harness", "", True),
        ("-mharness.compare", "a b", True),
        ("-Bmharness", "", True),
        ("-m harnesses", "", False),
        ("-mmypackage", "harness", False),
        ("-m mypackage.tool", "-m harness", False),
    ],
)
def test_a_program_is_the_harness_by_its_module(monkeypatch, options: str, arguments: str, ours: bool) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *options.split(), *arguments.split()])
    monkeypatch.setattr(sys, "argv", ["-m", *arguments.split()])
    assert program.is_ours() == ours
    monkeypatch.setattr(sys, "argv", ["program", *arguments.split()])
    assert not program.is_ours()


def test_the_advice_is_printed_whatever_becomes_of_an_interruption() -> None:
    """As between the last cell and the report, or where a library makes another exception of the interruption."""
    code = (
        "import os, signal\n"
        "from harness import program\n"
        "def main():\n"
        "    program.advise('go on')\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGHUP)\n"
        "    except KeyboardInterrupt as interruption:\n"
        "        raise SystemExit(7) from interruption\n"
        "program.run(main, failed=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=with_signals()
    )
    assert (done.returncode, done.stderr) == (129, "go on\n")


def test_records_are_read_where_the_system_lacks_what_windows_lacks(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "del signal.SIGHUP, os.O_NONBLOCK\n"
        "import harness.report.command\n"
        "from harness import record\n"
        "print(len(record.load(sys.argv[1])))\n"
    )
    record.write({"status": "ok"}, tmp_path / "record.json")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(("baseline", "words"), [(None, "holds no record"), ("git:HEAD", "candidate does not exist")])
def test_a_run_folder_without_a_record_ends_in_a_message(tmp_path: Path, capsys, baseline: str, words: str) -> None:
    asked = {"baseline": baseline, "confirm_s": 0, "slower": 1.1, "allow": []}
    config = OmegaConf.create({**asked, "hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit) as ended:
        RunFolder().on_multirun_end(config)
    printed = f"{ended.value.code} {capsys.readouterr().err}"
    assert words in printed
    assert "Traceback" not in printed
    assert baseline is None or ended.value.code == 3


def test_a_regression_stays_one_whatever_cannot_be_printed(tmp_path: Path) -> None:
    streams.CASES["a regression, both full"](tmp_path)


def test_a_broken_yaml_of_the_user_is_named(harness, tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "broken.yaml").write_text("a: [1\n")
    done = harness(f"--config-dir={tmp_path}", "method=broken")
    assert done.returncode == 1
    assert "method/broken.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_a_gpu_that_is_not_there(harness) -> None:
    done = harness("device=cuda")
    assert done.returncode == 1
    assert "device=cuda was asked for, but this torch build" in " ".join(done.stdout.split())


def test_help_says_how_to_use_it() -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for word in ("python -m harness +sweep=quick", "vmap_hvp", "rosenbrock", "quick", "limit_s"):
        assert word in done.stdout


def test_the_row_of_the_example_of_a_users_own_problem(harness, tmp_path: Path) -> None:
    done = harness("problem=custom", "problem._target_=tests.examples.custom_problem.my_problem", "dtype=float64")
    assert done.returncode == 0, done.stdout + done.stderr
    assert only_record(tmp_path / "run")["status"] == "ok"
