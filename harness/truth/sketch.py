"""A few numbers of a result, small enough for a record, by which results are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.measure import ranks
from harness.truth.shards import RowShard

SKETCHES = 32
ENTRIES = 2**22  # of a result that are processed at once


def sketch(tensors: Sequence[Tensor | RowShard]) -> list[float]:
    """32 random linear functions of a result, the same for all results of its shape.

    For two results A and B the sum of the squared differences between their sketches estimates |A - B|_F^2 without
    bias, with a relative standard error of about sqrt(2 / 32). Every row and every column has a random sign and one of
    32 places (count sketch: Charikar, Chen and Farach-Colton 2002). An entry is added, with both signs, at the sum of
    its places modulo 32 (tensor sketch: Pham and Pagh 2013). The sketches of several tensors are added.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(SKETCHES, dtype=torch.float64)
    for tensor in tensors:
        matrix, shape, own = _matrix(tensor)
        rows = torch.zeros(SKETCHES, shape[1], dtype=torch.float64)
        drawn = [torch.randint(2 * SKETCHES, (size,), generator=generator, dtype=torch.uint8) for size in shape]
        count = max(ENTRIES // shape[1], 1)
        for block, part in zip(matrix.split(count), drawn[0][own].split(count), strict=True):
            place, sign = _place_and_sign(part)
            rows.index_add_(0, place, block.to("cpu", torch.float64) * sign[:, None])
        if isinstance(tensor, RowShard):
            rows = ranks.added(rows)
        place, sign = _place_and_sign(drawn[1])
        both = torch.zeros(SKETCHES, SKETCHES, dtype=torch.float64).index_add_(1, place, rows * sign)
        sums = torch.arange(SKETCHES)[:, None] + torch.arange(SKETCHES)
        total.index_add_(0, (sums % SKETCHES).flatten(), both.flatten())
    return total.tolist()


def bilinear(tensors: Sequence[Tensor | RowShard], count: int = SKETCHES) -> list[float]:
    """`count` numbers s^T R t of a result R with random signs s and t, the same for all results of its shape.

    For two results the sum of the squared differences estimates |A - B|_F^2 without bias, as that of `sketch` does. It
    costs one reading of the result: a product with `count` vectors, in the result's precision (float32 for half). For
    a vector d the numbers are s . d; those of several tensors are added.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, dtype=torch.float64)
    for tensor in tensors:
        matrix, shape, own = _matrix(tensor)
        exact = matrix.dtype in (torch.float64, torch.float32)
        kind = matrix.dtype if exact else torch.float32
        left, right = (signs((count, size), generator, kind, matrix.device) for size in shape)
        rows = max(1, len(matrix) if exact else ENTRIES // shape[1])
        parts = zip(left[:, own].split(rows, dim=1), matrix.split(rows), strict=True)
        products = sum(signed @ part.to(kind) for signed, part in parts)  # (count, columns)
        numbers = (products * right).sum(1).to("cpu", torch.float64)
        total += ranks.added(numbers) if isinstance(tensor, RowShard) else numbers
    return (total / math.sqrt(count)).tolist()


def _matrix(tensor: Tensor | RowShard) -> tuple[Tensor, tuple[int, int], slice]:
    """A part of a result as a matrix, of which there may be some rows only; its whole shape, and which rows it has."""
    if isinstance(tensor, RowShard):
        return tensor.rows.detach(), (tensor.params, tensor.params), tensor.own
    matrix = tensor.detach().reshape(len(tensor) if tensor.dim() else 1, -1)
    return matrix, (len(matrix), matrix.shape[1]), slice(0, len(matrix))


def signs(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random signs (+1 or -1) of this shape, drawn on the CPU."""
    return (2 * torch.randint(2, shape, generator=generator, dtype=torch.int8) - 1).to(device, dtype)


def _place_and_sign(drawn: Tensor) -> tuple[Tensor, Tensor]:
    return (drawn % SKETCHES).long(), (drawn // SKETCHES).double() * 2 - 1
