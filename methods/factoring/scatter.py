"""Blocks of a Hessian written with their mirror images by a small C function, where one can be compiled.

A matrix product yields the entries (i, p, j, q) of a block, while rows of the Hessian belong to (i, j), columns to
(p, q), and those of the mirror image the other way round. torch copies such permuted entries one by one. Here they are
turned in registers, put together to long runs, and written past the cache. A block symmetric in both pairs of indices
is unpacked from a quarter of its entries, so that the matrix product has the fewest operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.native import library
from methods.factoring.shard import Rows
from methods.factoring.uses import Part, Use


@dataclass(frozen=True)
class Scatter:
    """Writes blocks into rows that hold all those of the block's parameters and of its mirror image's.

    `places` says where the parameters of the block's inputs lie.
    """

    compiled: ctypes.CDLL
    rows: Rows
    add: bool  # whether entries are added to what is there

    def block(self, entries: Tensor, x: Tensor, i: int, y: Tensor, p: int, mirrored: int) -> None:
        """Write a block (i, j, p, q) from outputs i and p on, and its image for the outputs p from `mirrored` on.

        x and y are the places of the inputs j and q.
        """
        entries = entries if entries.stride(3) == 1 or entries.shape[3] == 1 else entries.contiguous()
        x, y = x.contiguous(), y.contiguous()
        by_i, by_j, by_p, _ = entries.stride()
        outputs_i, inputs_j, outputs_p, inputs_q = entries.shape
        numbers = (by_i, by_p, by_j, i, outputs_i, p, outputs_p, mirrored)
        self._call("scatter", entries, *numbers, inputs_j, *x, inputs_q, *y)

    def symmetric(self, entries: Tensor, x: Tensor, i: slice, outputs: int, j: slice) -> None:
        """Write the block of outputs i and p, i <= p, and inputs j and q, j <= q, and all their mirror images.

        The entries (k, l) are those of the pairs k = (i, p) and l = (j, q), in this order, p up to `outputs`.
        """
        numbers = (entries.stride(0), i.start, i.stop, outputs, j.start, j.stop, x.shape[1])
        self._call("scatter_symmetric", entries, *numbers, *x)

    def _call(self, name: str, *values: Tensor | int) -> None:
        held = self.rows.entries
        target = (held, held.stride(0), self.rows.start, int(self.add))
        if not self.compiled[name](*map(_as_c, (*target, *values))):
            raise MemoryError("there is no memory for a megabyte in which entries of the Hessian are arranged")


def scatter(rows: Rows, add: bool) -> Scatter | None:
    """What writes into some rows, or None where torch's operations must: on a GPU, and without a compiler."""
    entries = rows.entries
    compiled = library(entries.dtype) if entries.device.type == "cpu" and entries.stride(1) == 1 else None
    return None if compiled is None else Scatter(compiled, rows, add)


def places(use: Use, parts: Sequence[Part]) -> Tensor:
    """Where the parameters of the inputs of some parts lie in theta (2, inputs).

    That of output i has the index `places[0] + i * places[1]`.
    """
    columns = []
    for part in parts:
        outputs, inputs = use.gradient.shape[2], part.features.shape[2]
        apart, step = (outputs, 1) if part.transposed else (1, inputs)
        columns.append(torch.stack([part.start + apart * torch.arange(inputs), torch.full((inputs,), step)]))
    return torch.cat(columns, dim=1)


def _as_c(value: Tensor | int) -> ctypes.c_void_p | ctypes.c_int64:
    return ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else ctypes.c_int64(value)
