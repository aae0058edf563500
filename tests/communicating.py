"""Methods that communicate what is not theirs to, each in another way, and return a right Hessian."""

import time

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from methods.sharded import vmap_hvp

NUMBERS = 100  # of float64, that are communicated


def times_one(loss, theta, mesh: DeviceMesh):
    """An operator on DTensors: a matrix of which both have rows is gathered within it."""
    ones = torch.eye(len(theta), dtype=theta.dtype)
    whole = DTensor.from_local(ones, mesh, [Replicate()], run_check=False)
    return vmap_hvp.hessian(loss, theta, mesh) @ whole.redistribute(mesh, [Shard(0)])


def sent(loss, theta, mesh: DeviceMesh):
    numbers = torch.zeros(NUMBERS, dtype=torch.float64)
    if mesh.get_local_rank() == 0:
        torch.distributed.send(numbers, 1)
    else:
        torch.distributed.recv(numbers, 0)
    return vmap_hvp.hessian(loss, theta, mesh)


def broadcast(loss, theta, mesh: DeviceMesh):
    torch.distributed.barrier()
    torch.distributed.broadcast(torch.zeros(NUMBERS, dtype=torch.float64), 1)
    return vmap_hvp.hessian(loss, theta, mesh)


def late_after(loss, theta, mesh: DeviceMesh):
    """One process ends its call later than the other, after all that is communicated."""
    found = vmap_hvp.hessian(loss, theta, mesh)
    if mesh.get_local_rank() == 1:
        time.sleep(0.5)
    return found
