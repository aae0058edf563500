"""The program that compares LeNet-5's spectrum with its exact Hessian, on a small one."""

import os
import re
import subprocess
import sys

import numpy
import torch

from methods.storage.reading import StoredMatrix
from methods.storage.writing import write_hessian
from tests.conftest import ROOT
from tests.oracles import distance
from tests.programs.lenet5_spectrum import truth_of
from tests.spectra import extremes, matrix_of


def test_the_truth_is_that_of_the_matrix(tmp_path) -> None:
    hessian = matrix_of([9.0, -7.0, 5.0, 3.0, *numpy.linspace(-1, 1, 120)]).float()
    path = tmp_path / "hessian.npy"
    write_hessian(path, {"theta": torch.zeros(len(hessian))}, lambda vectors: hessian @ vectors)
    vector = torch.randn(len(hessian), 1, generator=torch.Generator().manual_seed(0))
    truth = truth_of(StoredMatrix(path, 0.01), vector, 3, 0.1, passes=16)
    exact = (hessian.double() + hessian.double().T) / 2
    damped = exact + 0.1 * torch.eye(len(exact), dtype=torch.float64)
    assert truth.trace == float(hessian.diagonal().double().sum())
    assert torch.allclose(truth.eigenvalues.value, extremes(exact, 3), atol=1e-7)
    assert distance(truth.inverse.value, torch.linalg.solve(damped, vector.double())) < 1e-4
    assert truth.inverse.error.max() < 1e-6
    assert truth.passes < 16


def test_the_program_on_a_small_network(tmp_path) -> None:
    sizes = [
        "--image",
        "12",
        "--channels",
        "1",
        "2",
        "--widths",
        "4",
        "4",
        "--batch",
        "8",
        "--k",
        "2",
        "--damping",
        "4",
    ]
    program = [sys.executable, "-m", "tests.programs.lenet5_spectrum", "--folder", str(tmp_path), *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| [\d.]+ s \| ([\d.e+-]+) \| ([\d.e+-]+) \|$", done.stdout, re.MULTILINE)
    errors = {name: float(error) for name, _, error, _ in rows}
    assert list(errors) == [
        "lanczos",
        "lobpcg",
        "power_iteration",
        "hutchinson",
        "hutchpp",
        "xtrace",
        "conjugate_gradients",
        "minres",
        "neumann",
    ]
    assert max(errors[name] for name in ("lanczos", "lobpcg", "conjugate_gradients", "minres")) < 1e-4
    assert "by factored" in done.stderr
    assert not list(tmp_path.iterdir())
