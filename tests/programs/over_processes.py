"""Two processes compare sharded Hessians and data-parallel products with those of one process.

python -m tests.programs.over_processes

They are forked before torch has threads. Each prints `right` at the end. P is odd, and of a network
of one parameter one process has no rows. What is wrong in one process must be an error in both, within the group's
timeout.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from methods import batches, create_graph_rows, factored, vmap_hvp
from methods.calls import loss_of
from methods.ravel import ravel
from methods.sharded import data_parallel
from methods.sharded import factored as sharded_factored
from methods.sharded import vmap_hvp as sharded_vmap_hvp

PROCESSES = 2


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ranks = [rank for rank in range(PROCESSES) if _forked(rank, f"{folder}/store")]
        assert len(ranks) == PROCESSES
        codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in ranks]
    sys.exit(int(any(codes)))


def _forked(rank: int, store: str) -> bool:
    """Whether this is the parent, which has started a process that checks."""
    if os.fork():
        return True
    code = 1
    try:
        check(rank, torch.distributed.FileStore(store, PROCESSES))
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def check(rank: int, store: torch.distributed.Store) -> None:
    """Raise AssertionError where a result of this process is not that of one process."""
    timeout = timedelta(seconds=30)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timeout)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, targets = torch.randn(10, 4), torch.tensor([0, 1, 2, -100, 1, 0, 2, 2, 1, -100])
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    _check_network(mesh, model, criterion, inputs, targets)
    _check_network(
        mesh,
        nn.Sequential(nn.Linear(1, 1, bias=False)),
        nn.BCEWithLogitsLoss(),
        inputs[:, :1],
        inputs[:, 1:2].sigmoid(),
    )
    _check_own_batches(mesh, model, criterion, inputs, targets)
    _check_samples_that_mix(mesh, inputs)
    _check_errors(mesh, model, criterion, inputs, targets)
    _check_other_parameters(mesh, inputs, targets)
    print("right\n", end="", flush=True)  # in one piece: both print at the same time
    torch.distributed.destroy_process_group()


def _check_network(mesh: DeviceMesh, model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    theta, unravel = ravel(model)
    of_named = loss_of(model, criterion, inputs, targets)

    def loss(theta: Tensor) -> Tensor:
        return of_named(unravel(theta))

    true = create_graph_rows.hessian(loss, theta)
    halves = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    found = {
        "factored": sharded_factored.hessian(model, criterion, inputs, targets, mesh),
        "vmap_hvp": sharded_vmap_hvp.hessian(loss, theta, mesh, chunk_size=4),
        "factored over batches": batches.hessian(sharded_factored, model, criterion, halves, mesh=mesh),
        "vmap_hvp over batches": batches.hessian(sharded_vmap_hvp, model, criterion, halves, mesh=mesh),
    }
    for name, matrix in found.items():
        _check_layout(name, matrix, true, mesh)
        assert (matrix.full_tensor() - true).norm() < 1e-13 * true.norm(), name
        assert (matrix.redistribute(mesh, [Replicate()]).to_local() - true).norm() < 1e-13 * true.norm(), name
    vectors = torch.randn(len(true), 2, generator=torch.Generator().manual_seed(1))
    products = data_parallel.hvp(model, criterion, inputs, targets, vectors, mesh)
    assert (products - true @ vectors).norm() < 1e-12 * (true @ vectors).norm()


def _check_layout(name: str, matrix: DTensor, true: Tensor, mesh: DeviceMesh) -> None:
    assert matrix.shape == true.shape, name
    assert matrix.placements == (Shard(0),), name
    chunks, rank = true.chunk(PROCESSES), mesh.get_local_rank()
    own = chunks[rank] if rank < len(chunks) else true[:0]
    assert matrix.to_local().shape == own.shape, name


def _check_own_batches(
    mesh: DeviceMesh, model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor
) -> None:
    """Every process has batches of its own, of different sizes; at first the second one has nothing that counts."""
    ends = {0: [0, 1, 9], 1: [9, 10]}[mesh.get_local_rank()]
    own = [(inputs[start:stop], targets[start:stop]) for start, stop in itertools.pairwise(ends)]
    group = mesh.get_group()
    for given in (targets, targets.clamp(min=0)):
        own = [(inputs[start:stop], given[start:stop]) for start, stop in itertools.pairwise(ends)]
        found = batches.diagonal(vmap_hvp, model, criterion, own, group=group)
        true = factored.diagonal(model, criterion, inputs, given)
        assert (found - true).norm() < 1e-12 * true.norm()


class Centred(nn.Module):
    """A layer of which each sample sees the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0) / 2)


def _check_samples_that_mix(mesh: DeviceMesh, inputs: Tensor) -> None:
    """Of two samples each process has one, in which alone nothing can be compared; of three the second has two."""
    model, vectors = Centred(), torch.randn(15, 1)
    for count in (2, 3, 4):
        with pytest.raises((NotImplementedError, RuntimeError), match="cannot be split into batches"):
            data_parallel.hvp(model, nn.CrossEntropyLoss(), inputs[:count], torch.arange(count) % 3, vectors, mesh)


def _check_errors(mesh: DeviceMesh, model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """The batches of process 1 are of another width, and then its method raises."""
    rank, group = mesh.get_local_rank(), mesh.get_group()
    with pytest.raises(RuntimeError, match="mat1 and mat2" if rank else "process 1 of 2 raised RuntimeError: mat1"):
        batches.diagonal(vmap_hvp, model, criterion, [(inputs[:, : 4 - rank], targets)], group=group)

    def raising(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
        if rank == 1:
            raise KeyError("one")
        return theta

    with pytest.raises(KeyError if rank else RuntimeError, match="one"):
        batches.summed(raising, model, criterion, [(inputs, targets)], group=group)


def _check_other_parameters(mesh: DeviceMesh, inputs: Tensor, targets: Tensor) -> None:
    """The processes draw their weights from different seeds."""
    torch.manual_seed(mesh.get_local_rank())
    model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
    theta, _ = ravel(model)
    calls: list[Callable[[], object]] = [
        lambda: sharded_factored.hessian(model, criterion, inputs, targets, mesh),
        lambda: sharded_vmap_hvp.hessian(torch.linalg.norm, theta, mesh),
        lambda: data_parallel.hvp(model, criterion, inputs, targets, torch.ones(15, 1), mesh),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"process 1 has other parameters than process 0"):
            call()


if __name__ == "__main__":
    main()
