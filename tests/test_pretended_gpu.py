"""The harness and the methods on a pretended GPU (tests/pretended_gpu), which a process loads before torch."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import record
from tests.pretended_gpu import library, nvml

pytestmark = pytest.mark.skipif(bool(library.missing()), reason=library.missing() or "")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python program that begins with the pretended GPUs."""
    library.build()
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=library.ROOT,
        env=os.environ | library.environment(),
        capture_output=True,
        text=True,
        timeout=1500,
    )


def test_methods(capsys) -> None:
    options = ["-q", "-s", "-W", "ignore", "-p", "no:cacheprovider"]
    found = run("-m", "pytest", *options, "tests/pretended_gpu/checks.py")
    with capsys.disabled():
        print(f"\n{found.stdout}")
    assert found.returncode == 0, found.stderr


def test_a_sweep(tmp_path) -> None:
    """From the command line to the records: time with events, memory, agreement, and a GPU that throttles for heat.

    On cuda:1, so that what is measured on cuda:0 is found: events are not ready, and memory is not counted.
    """
    problem = ["problem=mlp", "problem.inputs=3", "problem.width=3", "problem.outputs=2", "problem.batch=8"]
    measure = ["passes=[time,exact,agreement]", "measure.budget_s=0.02", "measure.min_samples=10"]
    output = tmp_path / "run"
    methods = "method=vmap_hvp,factored"
    done = run("-m", "harness", "-m", "device=cuda:1", "dtype=float64", *problem, methods, *measure, f"output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    for row in record.load(output).to_dict("records"):
        assert (row["status"], row["device"], row["gpu"], row["driver"]) == ("ok", "cuda:1", "Pretended GPU", "580.00")
        assert row["relative_error"] < 1e-12
        assert row["output_bytes"] < row["tensor_peak_bytes"] <= row["allocated_peak_bytes"]
        assert len(row["events_s"]) == len(row["times_s"]) >= 10
        assert all(event <= wall for event, wall in zip(row["events_s"], row["times_s"], strict=True))
        assert row["throttle_reasons"][:1] == [0]
        assert len(row["sm_clock_mhz"]) == len(row["throttle_reasons"]) <= len(row["times_s"])
        assert (row["power_throttled_s"], row["nvml_missing"]) == (0, None)
        assert row["heat_throttled_s"] == pytest.approx(nvml.HEAT_SHARE * row["gpu_watched_s"], rel=0.2)
        assert row["gpu_watched_s"] >= row["sampling_wall_s"]
        assert "heat" in row["throttled_by"]
        assert row["contended"]  # a time with a star
        assert row["gpu_busy_missing"] == "this build of torch cannot trace a GPU"


def test_the_program_for_a_gpu(tmp_path) -> None:
    done = run("-m", "tests.programs.gpu", str(tmp_path), "--only", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| smoke | does it run at all? | 1 ok |" in done.stdout
    assert (tmp_path / "summary.md").read_text().startswith("# The methods on a GPU\n\nPretended GPU, torch 2.13.0")
    assert (tmp_path / "report" / "table.md").exists()


def test_builds_at_the_same_time_end_with_one_whole_library(tmp_path, monkeypatch) -> None:
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    find_output = 'while [ "$1" != -o ]; do shift; done'
    compiler.write_text(f'#!/bin/sh\n{find_output}\nprintf half > "$2"; sleep 0.4; printf whole > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(library, "BUILT", tmp_path / "built")

    def built(later: int) -> str:
        time.sleep(0.2 * later)
        return library.build().read_text()

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(built, range(2))) == ["whole", "whole"]
    assert len(list((tmp_path / "built").iterdir())) == 1


def test_another_torch_is_no_place_for_it(monkeypatch) -> None:
    monkeypatch.setattr(library.importlib.metadata, "version", lambda name: "2.14.1")
    assert library.missing() == "the pretended GPU was written for torch 2.13, and this is 2.14.1"
