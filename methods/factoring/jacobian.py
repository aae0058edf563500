"""Products with the Jacobian of the tensors that pass a cut, which is mostly zero in one way or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.factoring.numerics import drawn
from methods.factoring.scratch import Scratch


@dataclass(frozen=True)
class Term:
    """Derivatives of one tensor that passes the cut."""

    of: slice  # its entries among those of all tensors
    block: Tensor | None  # (N, S, p, entries); None for the tensor itself, which only passes through
    apart: bool  # whether these are its entries at the position s alone

    def add_product(self, matrix: Tensor, result: Tensor, scratch: Scratch) -> None:
        """Add the product with the rows of a matrix (N, Y, Z) to the result (N, S p, Z)."""
        right = matrix[:, self.of]
        if self.block is None:
            result += right
        elif self.apart:
            _, positions, _, width = self.block.shape
            for block, rows, place in zip(self.block, right, result, strict=True):
                by_position = place.unflatten(0, (positions, -1))
                by_position.baddbmm_(block, rows.unflatten(0, (positions, width)))
        else:
            _add_sparse_product(self.block.flatten(1, 2), right, result, scratch)


@dataclass(frozen=True)
class Jacobian:
    """Derivatives of the tensors that pass a cut along the shifts of some outputs of a place. Zeros are left out."""

    terms: Sequence[Term]

    def some(self, outputs: slice) -> Jacobian:
        """That along the shifts of some outputs of a call."""
        found = [(term, term.block) for term in self.terms]
        return Jacobian([replace(term, block=block[:, :, outputs]) for term, block in found if block is not None])

    @staticmethod
    def joined(parts: Sequence[Jacobian]) -> Jacobian:
        """That along the shifts of all outputs."""
        joined = []
        for terms in zip(*(part.terms for part in parts), strict=True):
            blocks = [term.block for term in terms if term.block is not None]
            joined.append(replace(terms[0], block=torch.cat(blocks, dim=2) if blocks else None))
        return Jacobian(joined)

    def add_product(self, matrix: Tensor, result: Tensor, scratch: Scratch) -> None:
        """Add the product with a matrix (N, Y, Z) to the result (N, S p, Z), which may be a view."""
        for term in self.terms:
            term.add_product(matrix, result, scratch)


def _add_sparse_product(left: Tensor, right: Tensor, result: Tensor, scratch: Scratch) -> None:
    """Add the product of (N, U, Y) and (N, Y, Z), where rows of `left` may be zero but for few columns.

    Rows that are zero at the same places for all samples, as those of one head of an attention, are multiplied
    together. On a GPU, which would have to wait for the places, the product is a dense one.
    """
    if right.is_cuda:
        result.baddbmm_(left, right)
        return
    nonzero = (left != 0).any(0)  # (U, Y)
    keys = nonzero.double() @ drawn(nonzero[0].double())
    _, kinds = keys.unique(return_inverse=True)
    firsts = kinds.new_empty(int(kinds.max()) + 1).scatter_(0, kinds, torch.arange(len(kinds)))
    supports, counts = nonzero[firsts].sum(1), kinds.bincount()
    if 2 * int(supports @ counts) > nonzero.numel():
        result.baddbmm_(left, right)
        return
    by_kind = kinds.argsort(stable=True).split(counts.tolist())
    shapes = torch.stack([counts, supports], dim=1)
    for count, support in shapes.unique(dim=0).tolist():
        if not support:
            continue
        same = ((counts == count) & (supports == support)).nonzero().flatten().tolist()
        rows = torch.stack([by_kind[kind] for kind in same])  # (kinds, count)
        columns = nonzero[firsts[same]].nonzero()[:, 1].view(len(same), support)
        some = left[:, rows[:, :, None], columns[:, None]].flatten(0, 1)  # (N kinds, count, support)
        known = scratch.empty("known", right, len(right), columns.numel(), right.shape[2])
        product = scratch.empty("product", right, len(right), rows.numel(), right.shape[2])
        torch.index_select(right, 1, columns.flatten(), out=known)
        torch.bmm(some, known.view(len(some), support, -1), out=product.view(len(some), count, -1))
        result.index_add_(1, rows.flatten(), product)
