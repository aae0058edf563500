"""Products with the Jacobian of the tensors that pass a cut, which is mostly zero in one way or another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.numerics import drawn
from methods.factoring.products import put
from methods.factoring.scratch import Scratch

MOVED = 100  # multiplications in the time of which one number is moved in memory, as seen on a CPU


class Kind(NamedTuple):
    """Rows of a Jacobian that are zero but for the same columns; several such sets of as many rows and columns."""

    rows: Tensor  # (sets, rows)
    columns: Tensor  # (sets, columns)
    entries: Tensor  # (N sets, rows, columns)


@dataclass(frozen=True)
class Term:
    """Derivatives of one tensor that passes the cut."""

    of: slice  # its entries among those of all tensors
    block: Tensor | None  # (N, S, p, entries); None for the tensor itself, which only passes through
    apart: bool  # whether these are its entries at the position s alone

    def put_product(self, matrix: Tensor, result: Tensor, scratch: Scratch, add: bool) -> None:
        """Write the product with the rows of a matrix (N, Y, Z) into the result (N, S p, Z), or add it."""
        right, beta = matrix[:, self.of], float(add)
        if self.block is None:
            put(result, right, add)
        elif self.apart:
            _, positions, _, width = self.block.shape
            for block, rows, place in zip(self.block, right, result, strict=True):
                by_position = place.unflatten(0, (positions, -1))
                by_position.baddbmm_(block, rows.unflatten(0, (positions, width)), beta=beta)
        elif self.kinds is None:
            result.baddbmm_(self.block.flatten(1, 2), right, beta=beta)
        else:
            if not add:
                result.zero_()
            for kind in self.kinds:
                _add_kind(kind, right, result, scratch)

    @functools.cached_property
    def kinds(self) -> list[Kind] | None:
        """The rows by the columns in which they are not zero, as for those of a head of an attention.

        None where a dense product costs less; and on a GPU, which would have to wait for the places of the zeros.
        """
        assert self.block is not None
        left = self.block.flatten(1, 2)  # (N, U, Y)
        if left.is_cuda:
            return None
        nonzero = (left != 0).any(0)
        _, kinds = (nonzero.double() @ drawn(nonzero[0].double())).unique(return_inverse=True)
        firsts = kinds.new_empty(int(kinds.max()) + 1).scatter_(0, kinds, torch.arange(len(kinds)))
        columns, rows = nonzero[firsts].sum(1), kinds.bincount()
        if int((rows * columns + MOVED * (rows + columns)).sum()) > nonzero.numel():
            return None
        members = kinds.argsort(stable=True).split(rows.tolist())
        found = []
        for count, support in torch.stack([rows, columns], dim=1).unique(dim=0).tolist():
            if support:
                same = ((rows == count) & (columns == support)).nonzero().flatten().tolist()
                at = torch.stack([members[kind] for kind in same])
                where = nonzero[firsts[same]].nonzero()[:, 1].view(len(same), support)
                found.append(Kind(at, where, left[:, at[:, :, None], where[:, None]].flatten(0, 1)))
        return found


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

    def put_product(self, matrix: Tensor, result: Tensor, scratch: Scratch, add: bool) -> None:
        """Write the product with a matrix (N, Y, Z) into the result (N, S p, Z), which may be a view, or add it."""
        for term in self.terms:
            term.put_product(matrix, result, scratch, add)
            add = True
        if not add:
            result.zero_()


def _add_kind(kind: Kind, right: Tensor, result: Tensor, scratch: Scratch) -> None:
    """Add the product of some rows with the columns in which they are not zero."""
    count, support = kind.entries.shape[1:]
    known = scratch.empty("known", right, len(right), kind.columns.numel(), right.shape[2])
    product = scratch.empty("product", right, len(right), kind.rows.numel(), right.shape[2])
    torch.index_select(right, 1, kind.columns.flatten(), out=known)
    torch.bmm(kind.entries, known.view(-1, support, right.shape[2]), out=product.view(-1, count, right.shape[2]))
    result.index_add_(1, kind.rows.flatten(), product)
