"""Which rows of a matrix (P, P) each process has: those of DTensor's own placement Shard(0)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard


def rows_of(mesh: DeviceMesh, params: int) -> slice:
    """The rows of this process, of `params` (P) in all.

    They are split as by torch.chunk: each process has ceil(P / K) of them, until there are none left. So the last ones
    of K processes may have fewer or none. Any other split would make `full_tensor` and `redistribute` of a DTensor
    wrong. Raises ValueError for a mesh of more than one dimension.
    """
    if mesh.ndim != 1:
        raise ValueError(f"the mesh has {mesh.ndim} dimensions; rows are sharded over one: give mesh[name]")
    length = -(-params // mesh.size())
    start = min(mesh.get_local_rank() * length, params)
    return slice(start, min(start + length, params))


def assembled(rows: Tensor, mesh: DeviceMesh) -> DTensor:
    """The matrix (P, P) of which each process has the `rows` (c, P) of `rows_of`; nothing is communicated."""
    size = rows.shape[1]
    shape = torch.Size([size, size])
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=(size, 1))
