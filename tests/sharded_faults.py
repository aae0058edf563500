"""Methods and problems that go wrong in one rank of several, each differently."""

import os
import signal
import time

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from harness.problems import functions, networks
from methods.sharded import vmap_hvp


def right(loss, theta, mesh: DeviceMesh):
    return vmap_hvp.hessian(loss, theta, mesh)


def killed(loss, theta, mesh: DeviceMesh):
    if mesh.get_local_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def raising(loss, theta, mesh: DeviceMesh):
    if mesh.get_local_rank() == 1:
        raise ValueError("rank 1 is not like the others")
    time.sleep(60)


def all_raising(loss, theta, mesh: DeviceMesh):
    raise ValueError("all are alike")


def leaving(loss, theta, mesh: DeviceMesh):
    if mesh.get_local_rank() == 0:
        os._exit(0)
    time.sleep(60)


def hanging(loss, theta, mesh: DeviceMesh):
    found = vmap_hvp.hessian(loss, theta, mesh)
    if mesh.get_local_rank() == 1:
        time.sleep(60)
    return found


def waiting_for_the_other(loss, theta, mesh: DeviceMesh):
    if mesh.get_local_rank() == 1:
        time.sleep(60)
    torch.distributed.all_reduce(torch.zeros(1), group=mesh.get_group())


def leaving_a_child(loss, theta, mesh: DeviceMesh):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def other_shapes(loss, theta, mesh: DeviceMesh):
    """Seven rows on one rank and the others on the other one, though half of them were right."""
    size, first = len(theta), 7
    rows = torch.zeros(first if mesh.get_local_rank() == 0 else size - first, size, dtype=theta.dtype)
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=(size, size), stride=(size, 1))


def plain_in_one(loss, theta, mesh: DeviceMesh):
    found = vmap_hvp.hessian(loss, theta, mesh)
    return found.to_local() if mesh.get_local_rank() == 1 else found


def wrong_in_one(loss, theta, mesh: DeviceMesh):
    found = vmap_hvp.hessian(loss, theta, mesh)
    return found * 1.001 if mesh.get_local_rank() == 1 else found * 1.0


def theta_in_place(loss, theta, mesh: DeviceMesh):
    found = vmap_hvp.hessian(loss, theta, mesh)
    if mesh.get_local_rank() == 1:
        theta.add_(1)
    return found


def sharded_by_columns(loss, theta, mesh: DeviceMesh):
    return vmap_hvp.hessian(loss, theta, mesh).redistribute(mesh, [Shard(1)])


def other_parameters():
    return networks.mlp(width=3, inputs=3, outputs=2, batch=8, seed=os.getpid())


def other_sizes():
    return functions.quadratic(size=5 + os.getpid() % 100)
