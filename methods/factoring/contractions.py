"""Blocks of the factored Hessian, contracted from their factors in the order that takes the fewest operations.

Symbols and the contraction as in `methods.factoring.products`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.numerics import slices

CACHE, CACHE_GPU = 2**23, 2**27  # bytes of what is computed at once
OUTPUTS = 64  # pairs of outputs for which products of features are formed once, where these fit the cache


@dataclass(frozen=True)
class Factors:
    """What a block (i, j, p, q) is the product of."""

    left: Tensor  # a (N, S, j)
    curvature: Tensor  # M (i, S, N, T, p)
    right: Tensor  # a' (N, T, q)
    gradient: Tensor  # g' (N, T, p)
    jacobian: Tensor | None  # J (i, S, N, T, q), of the first columns of `right`; the others, of a bias, are constant

    def piece(self, i: slice, p: slice) -> Factors:
        """The factors of a part of the block."""
        jacobian = None if self.jacobian is None else self.jacobian[i]
        return Factors(self.left, self.curvature[i, ..., p], self.right, self.gradient[..., p], jacobian)

    def by_width(self) -> Iterator[tuple[slice, Factors]]:
        """The factors for the columns that vary, and for those that are constant."""
        width = self.right.shape[2]
        varying = 0 if self.jacobian is None else self.jacobian.shape[4]
        if varying:
            yield slice(0, varying), replace(self, right=self.right[..., :varying])
        if varying < width:
            yield slice(varying, width), replace(self, right=self.right[..., varying:], jacobian=None)


class Piece(NamedTuple):
    """A part of a block."""

    i: slice
    j: slice
    p: slice
    q: slice
    entries: Tensor  # (i, j, p, q)


def pieces(factors: Factors, half: int | None, out: Tensor) -> Iterator[Piece]:
    """The block (i, j, p, q) in pieces that stay in the processor's cache, in the order with the fewest operations.

    `half` is the place of the first i among the p; then only the p from each piece's i on are computed.
    """
    samples, own, inputs = factors.left.shape  # N, S, j
    _, positions, width = factors.right.shape  # T, q
    rows, outputs = len(factors.curvature), factors.gradient.shape[2]  # i, p
    moved = _moved(factors) if own == positions == 1 else None
    if moved is not None and 4 * len(moved) <= rows * width:
        yield from _by_inputs(factors, moved, half, out)
        return
    both = 1 if factors.jacobian is None else 2
    first_s = own > 1 and own * (1 / width + (both - 1) / outputs)  # operations of the first sum, an entry and N T
    if positions * (both + first_s) < own * (1 + positions * both / inputs):
        contracted = _by_rows
        numbers = inputs * (samples * positions * (outputs + width) + outputs * width)
        fitting = at_once(rows, 1, numbers, out)[0], outputs
    else:
        contracted = _by_outputs
        fitting = at_once(rows, outputs, samples * own * width, out)
    for q, part in factors.by_width():
        for i, p in _outputs(factors, half, *fitting):
            yield Piece(i, slice(0, inputs), p, q, contracted(part.piece(i, p)))


def _outputs(factors: Factors, half: int | None, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """The outputs i and p of pieces of at most so many of them, as `pieces` needs them."""
    for i in slices(0, len(factors.curvature), rows):
        for p in slices(0 if half is None else half + i.start, factors.gradient.shape[2], columns):
            yield i, p


def _moved(factors: Factors) -> Tensor | None:
    """The pairs (i, q) for which J is not zero, as rows (k, 2); None on a GPU, for which the CPU would have to wait."""
    if factors.jacobian is None:
        return factors.curvature.new_zeros(0, 2, dtype=torch.int64)
    if factors.jacobian.device.type != "cpu":
        return None
    return factors.jacobian.abs().amax((1, 2, 3)).nonzero()


def _by_inputs(factors: Factors, moved: Tensor, half: int | None, out: Tensor) -> Iterator[Piece]:
    """The block of layers without positions, as one product: it takes 2 N operations an entry.

    It is for a J that is zero but for few pairs (i, q), `moved` (k, 2), as that of an operation on each output alone.
    The products of the features are formed once.
    """
    left = factors.left[:, 0].T.contiguous()  # (j, N)
    right = factors.right[:, 0].T.contiguous()  # (q, N)
    gradient = factors.gradient[:, 0].T  # (p, N)
    outputs, width = len(gradient), len(right)
    together = min(OUTPUTS, len(factors.curvature) * outputs)
    for j in slices(0, len(left), max(cached(out) // (together * width), 1)):
        features = (left[j, None] * right).flatten(0, 1)  # (j q, N)
        for i, p in _outputs(factors, half, *at_once(len(factors.curvature), outputs, len(features), out)):
            curvature = factors.curvature[i, 0, :, 0, p].mT  # (i, p, N)
            block = (curvature.flatten(0, 1) @ features.T).view(*curvature.shape[:2], j.stop - j.start, width)
            if factors.jacobian is not None:
                which, q = moved[(moved[:, 0] >= i.start) & (moved[:, 0] < i.stop)].unbind(1)
                jacobian = factors.jacobian[which, 0, :, 0, q]  # (k, N)
                change = (jacobian[:, None] * gradient[p]).flatten(0, 1) @ left[j].T  # (k p, j)
                block[which - i.start, :, :, q] += change.view(len(which), *block.shape[1:3])
            yield Piece(i, j, p, slice(0, width), block.transpose(1, 2))


def _by_rows(factors: Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions s first.

    It takes 2 N T (1 + S / q) operations an entry, and where there is a J as many again, with p for q.
    """
    left = factors.left.mT[:, None]  # (N, 1, j, S)
    pairs = (left.shape[2] * len(factors.curvature), -1)  # j i
    inner = _summed(left, factors.curvature).flatten(1)  # (N T, j i p)
    block = (inner.T @ factors.right.flatten(0, 1)).view(*pairs, factors.right.shape[2])  # (j i, p, q)
    if factors.jacobian is not None:
        change = _summed(left, factors.jacobian).transpose(0, 1)  # (j i, N T, q)
        block.baddbmm_(factors.gradient.flatten(0, 1).T.expand(len(block), -1, -1), change)
    return block.view(left.shape[2], -1, *block.shape[1:]).transpose(0, 1)


def _summed(left: Tensor, derivatives: Tensor) -> Tensor:
    """The sum of left (N, 1, j, S) times derivatives (i, S, N, T, p) over the positions s, as (N T, j i, p)."""
    rows, own, samples, positions, outputs = derivatives.shape
    derivatives = derivatives.permute(2, 3, 1, 0, 4)  # (N, T, S, i, p)
    if own == 1:
        inner = left.new_empty(samples, positions, left.shape[2], rows, outputs)
        torch.mul(left[..., None], derivatives, out=inner)
    else:
        inner = left @ derivatives.flatten(3)  # (N, T, j, i p)
    return inner.view(samples * positions, -1, outputs)


def _by_outputs(factors: Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions t first.

    It takes 2 N S (1 + T / j) operations an entry, and where there is a J another 2 N S T / j. The inner sums
    (N, S, i, p, q) are derivatives of each sample's own gradient.
    """
    samples, positions, width = factors.right.shape
    curvature = factors.curvature.permute(2, 1, 0, 3, 4)  # (N, S, i, T, p)
    batch, outputs = curvature.shape[:3], curvature.shape[4]
    jacobian = None if factors.jacobian is None else factors.jacobian.permute(2, 1, 0, 3, 4)  # (N, S, i, T, q)
    right, gradient = factors.right[:, None, None], factors.gradient[:, None, None]
    if positions == 1:
        inner = right.new_empty(*batch, outputs, width)  # whose order of storage would be that of M without `out`
        torch.mul(curvature.mT, right, out=inner)
        if jacobian is not None:
            inner.addcmul_(gradient.mT, jacobian)
    else:
        inner = torch.bmm(curvature.mT.reshape(samples, -1, positions), factors.right)  # (N, S i p, q)
        if jacobian is not None:
            flat = inner.view(-1, outputs, width)  # (N S i, p, q)
            flat.baddbmm_(gradient.expand(*batch, -1, -1).reshape(-1, positions, outputs).mT, jacobian.flatten(0, 2))
    inner = inner.view(-1, len(factors.curvature), outputs * width).transpose(0, 1)  # (i, N S, p q)
    left = factors.left.flatten(0, 1).T.expand(len(inner), -1, -1)  # (i, j, N S)
    return torch.bmm(left, inner).unflatten(2, (outputs, width))


def at_once(rows: int, columns: int, each: int, out: Tensor) -> tuple[int, int]:
    """How many rows and columns of entries, `each` numbers wide, stay in the processor's cache."""
    fit = max(cached(out) // each, 1)
    return (min(fit // columns, rows), columns) if fit >= columns else (1, fit)


def cached(out: Tensor) -> int:
    """How many numbers of the dtype of `out` are computed at once."""
    return (CACHE if out.device.type == "cpu" else CACHE_GPU) // out.element_size()
