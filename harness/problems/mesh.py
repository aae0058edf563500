"""The mesh of processes that a method asks for by name."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import HashStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

LONGEST = timedelta(days=1)  # that a process waits: the harness ends a pass at its time limit


def join(device: torch.device, store: Store, rank: int, count: int) -> None:
    """Find the other processes of a cell by `store`; make torch.distributed's default group on `device` and the CPU."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=LONGEST)


def mesh_of(device: torch.device) -> DeviceMesh:
    """The one-dimensional mesh of all processes of the cell; of this one alone where it has joined no others."""
    if not distributed.is_initialized():
        join(device, HashStore(), rank=0, count=1)
    return init_device_mesh(device.type, (distributed.get_world_size(),))
