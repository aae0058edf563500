"""Fixtures: a job with everything set, a launcher whose servers live as long as the session, and the command line."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from harness import record
from harness.job import PASSES, Job, Measure
from harness.problems import attention
from harness.run.launcher import Launcher
from methods.factoring import costs

torch.set_num_threads(1)  # two on a shared machine make loops over small tensors several times slower

ROOT = Path(__file__).parent.parent

JOB = Job(
    problem="mlp",
    problem_target="harness.problems.networks.mlp",
    problem_options={"width": 3, "inputs": 3, "outputs": 2, "batch": 8},
    method="create_graph_rows",
    target="methods.create_graph_rows.hessian",
    method_options={},
    quantity="hessian",
    vectors=2,
    subset=None,
    device="cpu",
    dtype="float64",
    threads=1,
    allocator="default",
    seed=0,
    round=0,
    interpreter=None,
    limit_s=30.0,
    memory_limit_gb=None,
    passes=PASSES,
    measure=Measure(
        budget_s=0.01,
        min_samples=2,
        max_samples=5,
        precision=0.02,
        truth="autograd",
        full_up_to=1024,
        probes=8,
        rows=64,
    ),
)


@pytest.fixture(scope="module")
def matrix_products() -> Iterator[None]:
    """Matrix products compute the Hessians of small networks too, where rows cost less."""
    with mock.patch.object(costs, "PRODUCTS", 0):
        yield


@pytest.fixture
def job() -> Callable[..., Job]:
    """A small job, with the given fields in place of its own."""
    return lambda **changes: dataclasses.replace(JOB, **changes)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


@pytest.fixture
def run(launcher: Launcher, job: Callable[..., Job], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the small job with the given fields in real processes; its record."""
    return lambda **changes: record.read(launcher.run(job(**changes), tmp_path))


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call `python -m harness ARGUMENTS` from the clone, its output under tmp_path/run."""

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        output = (
            []
            if any(entry.startswith(("output=", "resume=")) for entry in arguments)
            else [f"output={tmp_path / 'run'}"]
        )
        command = [sys.executable, "-m", "harness", *arguments, *output, "measure.budget_s=0.02"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **{"cwd": ROOT, **options})

    return call


@pytest.fixture
def by_products() -> Iterator[None]:
    """Attention from matrix products, as in a process that measures; torch's settings are restored."""
    cuda, fast = torch.backends.cuda, torch.backends.mha.get_fastpath_enabled()
    before = [
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cuda.math_sdp_enabled(),
    ]
    attention.use_math()
    yield
    setters = [cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp, cuda.enable_math_sdp]
    for setter, value in zip(setters, before, strict=True):
        setter(value)
    torch.backends.mha.set_fastpath_enabled(fast)
