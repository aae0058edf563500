"""The mesh of processes that a method asks for by name."""

from __future__ import annotations

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def mesh_of(device: torch.device) -> DeviceMesh:
    """The one-dimensional mesh of all processes of the cell; of this one alone where it has joined no others."""
    if not distributed.is_initialized():
        backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return init_device_mesh(device.type, (distributed.get_world_size(),))
