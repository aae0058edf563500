"""The rows of a matrix (P, P) that each process has, which are those of DTensor's own placement Shard(0)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an entry


def own_rows(mesh: DeviceMesh, params: int) -> slice:
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
    """The matrix (P, P) of which each process has the `rows` (c, P) of `own_rows`; nothing is communicated."""
    size = rows.shape[1]
    shape = torch.Size([size, size])
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=(size, 1))


def require_same_parameters(theta: Tensor, mesh: DeviceMesh) -> None:
    """Raise ValueError in every process where theta (P,) is not the same in all: by P and the sum of all bits."""
    if mesh.size() == 1:
        return
    bits = theta.detach().contiguous().view(INTEGERS[theta.element_size()])
    own = torch.stack([torch.tensor(len(bits), device=bits.device), bits.sum()]).to(mesh.device_type)
    found = [torch.empty_like(own) for _ in range(mesh.size())]
    distributed.all_gather(found, own, group=mesh.get_group())
    for rank, other in enumerate(found):
        if not torch.equal(other, found[0]):
            raise ValueError(
                f"process {rank} has other parameters than process 0 (P={int(other[0])} and {int(found[0][0])}): seed "
                "all processes alike, or load the same file in all"
            )
