"""Blocks of the factored Hessian, contracted from their factors in the order that takes the fewest operations.

Symbols and the contraction as in `methods.factoring.products`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from methods.factoring.numerics import slices

CACHE, CACHE_GPU = 2**23, 2**27  # bytes of what is computed at once


@dataclass(frozen=True)
class Factors:
    """What a block (i, j, p, q) is the product of."""

    left: Tensor  # a (N, S, j)
    curvature: Tensor  # M (i, S, N, T, p)
    right: Tensor  # a' (N, T, q)
    gradient: Tensor  # g' (N, T, p)
    jacobian: Tensor | None  # J (i, S, N, T, q), of the first columns of `right`; the others, of a bias, are constant

    def piece(self, i: slice, j: slice, p: slice) -> Factors:
        """The factors of a part of the block."""
        jacobian = None if self.jacobian is None else self.jacobian[i]
        return Factors(self.left[..., j], self.curvature[i, ..., p], self.right, self.gradient[..., p], jacobian)


def pieces(factors: Factors, half: int | None, out: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """The block (i, j, p, q) in pieces that stay in the processor's cache, each with its i, j and p.

    `half` is the place of the first i among the p; then only the p from each piece's i on are computed.
    """
    (rows, inputs, columns), contracted = _contraction(factors, out)
    outputs = factors.gradient.shape[2]
    for i in slices(0, len(factors.curvature), rows):
        for p in slices(0 if half is None else half + i.start, outputs, columns):
            for j in slices(0, factors.left.shape[2], inputs):
                yield i, j, p, contracted(factors.piece(i, j, p))


def _contraction(factors: Factors, out: Tensor) -> tuple[tuple[int, int, int], Callable[[Factors], Tensor]]:
    """The order of summation with the fewest operations, and how many i, j and p fit the cache at once."""
    samples, own, inputs = factors.left.shape  # N, S, j
    _, positions, width = factors.right.shape  # T, q
    rows, outputs = len(factors.curvature), factors.gradient.shape[2]  # i, p
    moved = _moved(factors) if own == positions == 1 else None
    if moved is not None and 4 * len(moved) <= rows * width:
        tile, _ = at_once(inputs, 1, rows * outputs * width, out)
        return (rows, tile, outputs), partial(_by_inputs, moved)
    if own > 1 and own * (1 + 2 * positions / inputs) > 2 * positions:
        numbers = inputs * (samples * positions * (outputs + width) + outputs * width)
        fitting, _ = at_once(rows, 1, numbers, out)
        return (fitting, inputs, outputs), _by_rows
    fitting, columns = at_once(rows, outputs, samples * own * width, out)
    return (fitting, inputs, columns), _by_outputs


def _moved(factors: Factors) -> Tensor | None:
    """The pairs (i, q) for which J is not zero, as rows (k, 2); None on a GPU, for which the CPU would have to wait."""
    if factors.jacobian is None:
        return factors.curvature.new_zeros(0, 2)
    if factors.jacobian.device.type != "cpu":
        return None
    return factors.jacobian.abs().amax((1, 2, 3)).nonzero()


def _by_inputs(moved: Tensor, factors: Factors) -> Tensor:
    """The block (i, j, p, q) of layers without positions, as one product: it takes 2 N operations an entry.

    It is for a J that is zero but for few pairs (i, q), `moved` (k, 2), as that of an operation on each output alone.
    """
    left = factors.left[:, 0].T.contiguous()  # (j, N)
    right = factors.right[:, 0].T.contiguous()  # (q, N)
    gradient = factors.gradient[:, 0].T  # (p, N)
    curvature = factors.curvature[:, 0, :, 0].mT  # (i, p, N)
    block = curvature.flatten(0, 1) @ (left[:, None] * right).flatten(0, 1).T  # (i p, j q)
    block = block.view(len(curvature), len(gradient), len(left), len(right))
    if factors.jacobian is not None:
        i, q = moved.unbind(1)
        jacobian = factors.jacobian[i, 0, :, 0, q]  # (k, N)
        change = (jacobian[:, None] * gradient).flatten(0, 1) @ left.T  # (k p, j)
        block[i, :, :, q] += change.view(len(i), len(gradient), len(left))
    return block.transpose(1, 2)


def _by_rows(factors: Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions s first: it takes 4 N T operations an entry."""
    inner = torch.einsum("nsj,isntp->ijpnt", factors.left, factors.curvature).flatten(3)
    block = inner @ factors.right.flatten(0, 1)
    if factors.jacobian is not None:
        inner = torch.einsum("nsj,isntq->ijntq", factors.left, factors.jacobian).flatten(2, 3)
        block[..., : factors.jacobian.shape[-1]] += factors.gradient.flatten(0, 1).T @ inner
    return block


def _by_outputs(factors: Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions t first: it takes 2 N S (1 + 2 T / j) operations an entry.

    The inner sums (i, p, q, S, N) are derivatives of each sample's own gradient.
    """
    one_position = factors.right.shape[1] == 1
    inner = _inner_of_one_position(factors) if one_position else _inner_of_positions(factors)
    left = factors.left.permute(2, 1, 0).flatten(1)  # (j, S N)
    inner = inner.flatten(3).flatten(1, 2)  # (i, p q, S N)
    return torch.bmm(left.expand(len(inner), -1, -1), inner.mT).unflatten(2, (-1, factors.right.shape[2]))


def _inner_of_positions(factors: Factors) -> Tensor:
    inner = torch.einsum("isntp,ntq->ipqsn", factors.curvature, factors.right).contiguous()
    if factors.jacobian is not None:
        change = torch.einsum("ntp,isntq->ipqsn", factors.gradient, factors.jacobian)
        inner[:, :, : factors.jacobian.shape[-1]] += change
    return inner


def _inner_of_one_position(factors: Factors) -> Tensor:
    """The samples come last, since the processor's vector instructions run along them."""
    inner = _samples_last(factors.curvature)[:, :, None] * factors.right[:, 0].T.contiguous()[:, None]
    if factors.jacobian is not None:
        gradient = factors.gradient[:, 0].T.contiguous()[:, None, None]
        inner[:, :, : factors.jacobian.shape[-1]].addcmul_(gradient, _samples_last(factors.jacobian)[:, None])
    return inner


def _samples_last(derivatives: Tensor) -> Tensor:
    """(i, S, N, 1, p) as (i, p, S, N)."""
    return derivatives[:, :, :, 0].permute(0, 3, 1, 2).contiguous()


def at_once(rows: int, columns: int, each: int, out: Tensor) -> tuple[int, int]:
    """How many rows and columns of entries, `each` numbers wide, stay in the processor's cache."""
    fit = max(cached(out) // each, 1)
    return (min(fit // columns, rows), columns) if fit >= columns else (1, fit)


def cached(out: Tensor) -> int:
    """How many numbers of the dtype of `out` are computed at once."""
    return (CACHE if out.device.type == "cpu" else CACHE_GPU) // out.element_size()
