"""Rows of Hessians that are computed apart, and sharded over processes, against the whole matrix of another method."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from harness.problems import from_network, networks
from methods import create_graph_rows, factored, vmap_hvp
from methods.factoring import products, sums
from methods.factoring.shard import Rows
from tests.oracles import distance

pytestmark = pytest.mark.usefixtures("matrix_products")

ROOT = Path(__file__).parent.parent


class Normed(nn.Module):
    """Two layers with a LayerNorm between them, whose parameters take rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.two(torch.tanh(self.norm(self.one(x))))


class Words(nn.Module):
    """An embedding, which is stored transposed, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(self.embedding(x)))).mean(1)


def given(name):
    """A network with its criterion, inputs and targets in float64."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    images = torch.randn(6, 1, 6, 6, generator=generator, dtype=torch.float64)
    words = torch.randint(7, (6, 3), generator=generator)
    model, inputs = {
        "layers": (nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), x),
        "rows": (Normed(), x),
        "transposed_and_tied": (Words(), words),
        "positions": (nn.Sequential(nn.Conv2d(1, 3, 5), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Flatten()), images),
        "all_rows": (nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.AvgPool2d(5), nn.Flatten()), images),
    }[name]
    return model.double(), nn.CrossEntropyLoss(), inputs, torch.randint(2, (6,), generator=generator)


def parts(params, count):
    """The rows that each of `count` processes has."""
    length = -(-params // count)
    return [slice(min(start, params), min(start + length, params)) for start in range(0, count * length, length)]


NAMES = ["layers", "rows", "transposed_and_tied", "positions", "all_rows"]


@pytest.mark.parametrize("name", NAMES)
def test_factored_rows_are_those_of_another_method_wherever_they_are_cut(name) -> None:
    model, criterion, inputs, targets = given(name)
    problem = from_network(model, criterion, inputs, targets)
    true = create_graph_rows.hessian(problem.loss, problem.theta)
    for count in (2, 3, 7, 29):
        batch = criterion, inputs, targets
        rows = [factored.hessian_rows(model, [batch], part) for part in parts(len(true), count)]
        assert [len(part) for part in rows] == [part.stop - part.start for part in parts(len(true), count)]
        assert distance(torch.cat(rows), true) < 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_factored_rows_add_up_over_batches(name) -> None:
    model, criterion, inputs, targets = given(name)
    true = factored.hessian(model, criterion, inputs, targets)

    def share(size):
        return lambda outputs, targets: criterion(outputs, targets) * size / len(inputs)

    batches = [(share(2), inputs[:2], targets[:2]), (share(4), inputs[2:], targets[2:])]
    rows = [factored.hessian_rows(model, batches, part) for part in parts(len(true), 3)]
    assert distance(torch.cat(rows), true) < 1e-13


def test_rows_write_nothing_beside_themselves() -> None:
    """Rows are views of a larger matrix here, of which the rest must stay as it is."""
    model, criterion, inputs, targets = given("layers")
    true, place = factored.hessian(model, criterion, inputs, targets), slice(10, 31)
    matrix = torch.full_like(true, 7.0)
    sums.write_sum(model, [(criterion, inputs, targets)], Rows(matrix[place], place.start), None, "rows")
    assert distance(matrix[place], true[place]) < 1e-13
    assert (matrix[: place.start] == 7).all()
    assert (matrix[place.stop :] == 7).all()


def test_every_process_checks_its_own_rows() -> None:
    """A row of the second part is planted wrong: the second process finds it, and computes it again."""
    model, criterion, inputs, targets = given("layers")
    true = factored.hessian(model, criterion, inputs, targets)
    real = products.write

    def spoiling(rows, *others):
        real(rows, *others)
        if rows.start:
            rows.entries[1, 2] += 1e-3

    with mock.patch("methods.factoring.hessian.write", spoiling):
        first, second = parts(len(true), 2)
        assert distance(factored.hessian_rows(model, [(criterion, inputs, targets)], first), true[first]) < 1e-13
        with pytest.warns(factored.FallbackWarning, match="computed again"):
            found = factored.hessian_rows(model, [(criterion, inputs, targets)], second)
    assert distance(found, true[second]) < 1e-13


@pytest.mark.parametrize("chunk_size", [1, 4, None, "auto"])
def test_rows_of_products_are_those_of_the_whole_matrix(chunk_size) -> None:
    problem = networks.mlp(inputs=3, width=4, outputs=2, batch=5)
    true = vmap_hvp.hessian(problem.loss, problem.theta)
    for count in (2, 3, len(true) + 1):
        rows = [
            vmap_hvp.hessian_rows(problem.loss, problem.theta, part, chunk_size=chunk_size)
            for part in parts(len(true), count)
        ]
        assert distance(torch.cat(rows), true) < 1e-13


def test_over_processes() -> None:
    """`tests/programs/over_processes.py` says what two processes check."""
    program = [sys.executable, "-m", "tests.programs.over_processes"]
    found = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["right"] * 2


@pytest.mark.slow
def test_the_script_of_the_page_runs_under_torchrun(tmp_path: Path) -> None:
    page = (ROOT / "results" / "processes.md").read_text()
    (tmp_path / "script.py").write_text(page.split("```python\n")[1].split("```")[0])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(tmp_path / "script.py")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(launch, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    params = 10 * 32 + 32 + 32 * 5 + 5
    expected = [
        f"{rank} torch.Size([{params}, {params}]) torch.Size([{n}, {params}])" for rank, n in ((0, 259), (1, 258))
    ]
    assert sorted(found.stdout.splitlines()) == expected
