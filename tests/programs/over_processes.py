"""Two processes compare sharded Hessians and data-parallel products with those of one process.

python -m tests.programs.over_processes

They are forked before torch has threads. Each prints `right` at the end. P is odd, and of a network
of one parameter one process has no rows.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import traceback

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
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
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
    print("right", flush=True)
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
    """Every process has batches of its own, of different sizes; the second one has nothing that counts."""
    ends = {0: [0, 1, 9], 1: [9, 10]}[mesh.get_local_rank()]
    own = [(inputs[start:stop], targets[start:stop]) for start, stop in itertools.pairwise(ends)]
    group = mesh.get_group()
    with pytest.raises(ValueError, match="of process 1"):
        batches.diagonal(factored, model, criterion, own, group=group)
    counting = targets.clone()
    counting[9] = 2
    own = [(inputs[start:stop], counting[start:stop]) for start, stop in itertools.pairwise(ends)]
    found = batches.diagonal(vmap_hvp, model, criterion, own, group=group)
    true = factored.diagonal(model, criterion, inputs, counting)
    assert (found - true).norm() < 1e-12 * true.norm()


if __name__ == "__main__":
    main()
