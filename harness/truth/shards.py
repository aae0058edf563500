"""A matrix whose rows are sharded over the ranks of a cell. What is compared of it is small: every rank has it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.measure import ranks

BLOCK = 1024  # rows converted to float64 at once


@dataclass(frozen=True)
class RowShard:
    """The rows of a matrix (P, P) that this rank has."""

    rows: Tensor  # (c, P)
    start: int  # the first of them
    params: int  # P

    @property
    def dtype(self) -> torch.dtype:
        """That of the entries."""
        return self.rows.dtype

    @property
    def requires_grad(self) -> bool:
        """Whether the rows of this rank require grad."""
        return self.rows.requires_grad

    @property
    def own(self) -> slice:
        """The rows of the matrix that this rank has."""
        return slice(self.start, self.start + len(self.rows))

    def numel(self) -> int:
        """The number of entries of the whole matrix."""
        return self.params**2

    def element_size(self) -> int:
        """Bytes of an entry."""
        return self.rows.element_size()

    def detach(self) -> RowShard:
        """The same without a graph."""
        return replace(self, rows=self.rows.detach())

    def to(self, device: str) -> RowShard:
        """The same on another device."""
        return replace(self, rows=self.rows.to(device))

    def zeros(self) -> RowShard:
        """A matrix of zeros, sharded alike."""
        return replace(self, rows=torch.zeros_like(self.rows))

    def gathered(self) -> Tensor:
        """The whole matrix (P, P), on the CPU, for a small one."""
        whole = torch.zeros(self.params, self.params, dtype=self.dtype)
        whole[self.own] = self.rows.detach().to("cpu")
        return ranks.added(whole)

    def nonfinite(self) -> int:
        """The number of entries that are NaN or infinite."""
        return int(_added(sum(int((~part.isfinite()).sum()) for part in self.rows.split(BLOCK))))

    def select(self, indices: Tensor) -> Tensor:
        """The rows (c, P) of these indices in float64."""
        found = torch.zeros(len(indices), self.params, dtype=torch.float64)
        here = (indices >= self.own.start) & (indices < self.own.stop)
        found[here] = self.rows[indices[here] - self.start].to(torch.float64)
        return ranks.added(found)

    def times(self, directions: Tensor) -> Tensor:
        """The products (P, k) with directions (P, k) in float64."""
        found = torch.zeros(self.params, directions.shape[1], dtype=torch.float64)
        if len(self.rows):
            products = [part.to(torch.float64) @ directions for part in self.rows.split(BLOCK)]
            found[self.own] = torch.cat(products)
        return ranks.added(found)

    def asymmetry(self, directions: Tensor) -> float:
        """The norm of H - H^T over that of H, estimated from random directions (P, k).

        |(H - H^T) V|^2 / k estimates |H - H^T|^2 without bias, for V of standard normal entries.
        """
        transposed = torch.zeros(self.params, directions.shape[1], dtype=torch.float64)
        square = 0.0
        for part, at in zip(self.rows.split(BLOCK), range(self.own.start, self.own.stop, BLOCK), strict=False):
            exact = part.to(torch.float64)
            transposed += exact.T @ directions[at : at + len(part)]
            square += float(exact.square().sum())
        uneven = self.times(directions) - ranks.added(transposed)
        size = _added(square) ** 0.5
        return float(uneven.norm()) / directions.shape[1] ** 0.5 / size if size else 0.0


def shard_of(result: Any) -> Any:
    """The rows that this rank has of a DTensor that all ranks of the cell share by rows; anything else as it is.

    Where there is one rank, they are the whole matrix, a plain tensor. `shard_fault` says what is wrong with the rows.
    """
    if not _is_dtensor(result) or layout_fault(result) is not None:
        return result
    rows, params = result.to_local(), result.shape[0]
    if ranks.count() == 1:
        return rows
    return RowShard(rows, min(ranks.number() * _length(params), params), params)


def layout_fault(result: Any) -> str | None:
    """What is wrong with the layout of a DTensor; None for anything else."""
    if not _is_dtensor(result):
        return None
    processes, placements = result.device_mesh.size(), [str(placement) for placement in result.placements]
    if placements == ["S(0)"] and processes == ranks.count() and result.dim() == 2:
        return None
    return (
        f"returned a DTensor {tuple(result.shape)} with placements {', '.join(placements)} over {processes} processes; "
        f"return a matrix with placement S(0), rows sharded over the mesh of {ranks.count()}"
    )


def _is_dtensor(result: Any) -> bool:
    tensor = sys.modules.get("torch.distributed.tensor")  # whoever returns one has imported it
    return tensor is not None and type(result) is tensor.DTensor


def shard_fault(shard: RowShard) -> str | None:
    """What is wrong with the number of this rank's rows: DTensor splits them as torch.chunk does."""
    right = max(min(shard.start + _length(shard.params), shard.params) - shard.start, 0), shard.params
    found = tuple(shard.rows.shape)
    if found == right:
        return None
    return (
        f"returned {found} as rank {ranks.number()}'s rows of a DTensor {(shard.params, shard.params)}; placement "
        f"Shard(0) over {ranks.count()} processes has {right} there"
    )


def _length(params: int) -> int:
    return -(-params // ranks.count())


def _added(number: float) -> float:
    return float(ranks.added(torch.tensor(number, dtype=torch.float64)))
