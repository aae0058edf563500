"""The sums over samples of the factored Hessian, written into it as blocks of two affine maps' parameters.

Symbols as in `methods.factored`. A block (i, j, p, q) holds the outputs i and inputs j of one map, p and q of another:

    sum_{n,s,t} a[n,s,j] (M[(s,i),n,(t,p)] a'[n,t,q] + g'[n,t,p] J[(s,i),n,(t,q)])

`contractions` computes it in pieces. Each piece is written, and mirrored, while it is in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.contractions import Factors, Piece, at_once, cached, pieces
from methods.factoring.numerics import slices
from methods.factoring.scatter import Scatter, places, scatter
from methods.factoring.shard import Rows
from methods.factoring.uses import Part, Use

# Where a layer's own block is symmetric in two outputs and in two inputs:
TILE = 16  # inputs that are computed at once
PAIRS = 64  # pairs of outputs for which a product of features is formed once, even if some are mirror images


def write(rows: Rows, use: Use, other: Use, first: int, curvature: Tensor, jacobian: Tensor | None, add: bool) -> None:
    """Write into `rows` those of one call's parameters against another's, and their mirror image.

    The entries are those of some outputs i of the first call, from `first` on. `curvature` is M (i, S, N, T, p),
    `jacobian` J (i, S, N, T, q). With `add` they are added to what is there.
    """
    if not (rows.hold(use, *use.parts) and rows.hold(other, *other.parts)):
        _write_shard(rows, use, other, first, curvature, jacobian, add)
    elif other is use:
        _write_own(rows, use, use.parts, slice(0, use.gradient.shape[2]), first, curvature, add)
    else:
        _write_between(rows, use, use.parts, other, other.parts, first, curvature, jacobian, add)


def _write_between(
    rows: Rows,
    use: Use,
    parts: Sequence[Part],
    other: Use,
    others: Sequence[Part],
    first: int,
    curvature: Tensor,
    jacobian: Tensor | None,
    add: bool,
) -> None:
    """As `write`, for some parts of calls whose rows are all there, where no part is among both."""
    factors = Factors(
        left=_features(parts),
        curvature=curvature,
        right=_features(others),
        gradient=other.gradient,
        jacobian=jacobian if others[0].varies else None,
    )
    block = _Block(rows, use, parts, other, others, add)
    for piece in pieces(factors, None, rows.entries):
        block.write(piece, first + piece.i.start, mirrored=0)


def _write_own(
    rows: Rows, use: Use, parts: Sequence[Part], outputs: slice, first: int, curvature: Tensor, add: bool
) -> None:
    """Write parts' own block between these outputs, symmetric in i and p: only p from i on are computed.

    The rows of the outputs are there. `curvature` M (i, S, N, S, p) is that of some of them, from `first` on.
    """
    within = curvature[..., : outputs.stop]
    native = scatter(rows, add)
    if use.gradient.shape[1] == 1 and native is not None:
        _write_packed(native, places(use, parts), first, within[:, 0, :, 0], _features(parts)[:, 0])
    elif _symmetric_in_inputs(use, parts[0]):
        for index, part in enumerate(parts):
            inputs = slice(0, part.features.shape[2])
            block = rows.tile(use, part, outputs, inputs, use, part, outputs)
            own = within[:, 0, :, 0, outputs.start :]
            _write_symmetric(block, first - outputs.start, own, part.features[:, 0], add)
            if index:
                _write_between(rows, use, parts[:index], use, (part,), first, curvature, None, add)
    else:
        features, block = _features(parts), _Block(rows, use, parts, use, parts, add)
        factors = Factors(features, within, features, use.gradient[..., : outputs.stop], None)
        for piece in pieces(factors, first, rows.entries):
            block.write(piece, first + piece.i.start, mirrored=first + piece.i.stop)  # the p before are computed


def _features(parts: Sequence[Part]) -> Tensor:
    """The features (N, S, q) of all parts of a call."""
    return torch.cat([part.features for part in parts], dim=2)


@dataclass(frozen=True)
class _Block:
    """The block of some parts of two calls, all of whose rows are there, and its mirror image."""

    rows: Rows
    use: Use
    parts: Sequence[Part]
    other: Use
    others: Sequence[Part]
    add: bool

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where the parameters of the inputs j and q lie (2, inputs)."""
        return places(self.use, self.parts), places(self.other, self.others)

    def write(self, piece: Piece, first: int, mirrored: int) -> None:
        """Write a piece, of outputs i from `first` on, and its image for the outputs p from `mirrored` on."""
        native = scatter(self.rows, self.add)
        if native is not None:
            x, y = self.places
            native.block(piece.entries, x[:, piece.j], first, y[:, piece.q], piece.p.start, mirrored)
            return
        i = slice(first, first + len(piece.entries))
        p = slice(max(piece.p.start, mirrored), piece.p.stop)
        pairs = itertools.product(_overlaps(self.parts, piece.j), _overlaps(self.others, piece.q))
        for (x, j, left), (y, q, right) in pairs:
            entries = piece.entries[:, left, :, right]
            put(self.rows.tile(self.use, x, i, j, self.other, y, piece.p, q), entries, self.add)
            if p.start < p.stop:
                image = entries[:, :, p.start - piece.p.start :].permute(2, 3, 0, 1)
                put(self.rows.tile(self.other, y, p, q, self.use, x, i, j), image, self.add)


def _write_packed(native: Scatter, inputs: Tensor, first: int, curvature: Tensor, features: Tensor) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q], as the product of the pairs i <= p and j <= q: N P^2 / 2 operations.

    `curvature` M (i, N, p) holds the outputs i from `first` on, and `inputs` are the places of the features (N, q).
    """
    samples, width = features.shape
    outputs, fitting = curvature.shape[2], cached(features)
    features = features.T.contiguous()  # (q, N)
    for j in slices(0, width, max(fitting // (width * max(PAIRS, samples)), 1)):
        products = torch.cat([features[one] * features[one:] for one in range(j.start, j.stop)])  # (j q, N)
        rows, _ = at_once(len(curvature), 1, outputs * len(products), features)
        for i in slices(0, len(curvature), rows):
            pairs = torch.cat([curvature[one, :, first + one :] for one in range(i.start, i.stop)], dim=1)  # (N, i p)
            which = slice(first + i.start, first + i.stop)
            native.symmetric(pairs.T @ products.T, inputs, which, outputs, j)


def _write_shard(
    rows: Rows, use: Use, other: Use, first: int, curvature: Tensor, jacobian: Tensor | None, add: bool
) -> None:
    """As `write`, where only some rows of the calls' parameters are there; the others are not computed.

    Entries whose row and whose mirror image are both there are computed once within a part, and where all rows of the
    second part are there.
    """
    for x, y in itertools.product(use.parts, other.parts):
        tiles = _Tiles(rows, use, x, other, y, first, curvature, jacobian if y.varies else None, add)
        every = slice(0, other.gradient.shape[2])
        if other is not use:
            for p, q in rows.rectangles(other, y):
                tiles.write_mirrored(p, q)
        mirrored = other is not use and rows.hold(other, y) and not (use.tied or other.tied)
        for outputs, j in rows.rectangles(use, x):
            i = slice(max(outputs.start, first), min(outputs.stop, first + len(curvature)))
            if i.start >= i.stop:
                continue
            if x is y and other is use and j == slice(0, x.features.shape[2]):
                _write_own(rows, use, (x,), outputs, i.start, curvature[i.start - first : i.stop - first], add)
                tiles.write(i, j, slice(0, outputs.start))
                tiles.write(i, j, slice(outputs.stop, every.stop))
            elif mirrored:
                tiles.copy_mirrored(i, j, every)
            else:
                tiles.write(i, j, every)


@dataclass(frozen=True)
class _Tiles:
    """Parts of the block (i, j, p, q) of two parameters, and what they are computed from."""

    rows: Rows
    use: Use
    x: Part
    other: Use
    y: Part
    first: int  # of the outputs i of `curvature`
    curvature: Tensor  # M (i, S, N, T, p)
    jacobian: Tensor | None  # J (i, S, N, T, q)
    add: bool

    def write(self, i: slice, j: slice, p: slice) -> None:
        """Write the entries of these outputs and inputs against those of other outputs p and all inputs q."""
        if p.start >= p.stop:
            return
        place, q = self.rows.tile(self.use, self.x, i, j, self.other, self.y, p), slice(0, self.y.features.shape[2])
        if self.x is self.y and self.use is self.other and j == q and _symmetric_in_inputs(self.use, self.x):
            which = slice(i.start - self.first, i.stop - self.first)
            _write_symmetric(place, None, self.curvature[which, 0, :, 0, p], self.x.features[:, 0], self.add)
        else:
            self._write(place, i, j, p, q)

    def copy_mirrored(self, i: slice, j: slice, p: slice) -> None:
        """Write the same entries, for all p, where the rows of p and q are written already."""
        q = slice(0, self.y.features.shape[2])
        image = self.rows.tile(self.other, self.y, p, q, self.use, self.x, i, j)
        self.rows.tile(self.use, self.x, i, j, self.other, self.y).copy_(image.permute(2, 3, 0, 1))

    def write_mirrored(self, p: slice, q: slice) -> None:
        """Write the rows of p and q: the mirror image of their columns in the rows of all i and j."""
        i, j = slice(self.first, self.first + len(self.curvature)), slice(0, self.x.features.shape[2])
        place = self.rows.tile(self.other, self.y, p, q, self.use, self.x, i, j)
        self._write(place.permute(2, 3, 0, 1), i, j, p, q)

    def _write(self, place: Tensor, i: slice, j: slice, p: slice, q: slice) -> None:
        which = slice(i.start - self.first, i.stop - self.first)
        factors = Factors(
            left=self.x.features[..., j],
            curvature=self.curvature[which, ..., p],
            right=self.y.features[..., q],
            gradient=self.other.gradient[..., p],
            jacobian=None if self.jacobian is None else self.jacobian[which, ..., q],
        )
        for a, b, c, d, entries in pieces(factors, None, self.rows.entries):
            put(place[a, b, c, d], entries, self.add)


class _Overlap(NamedTuple):
    """The part that some columns of concatenated features belong to."""

    part: Part
    inputs: slice  # of the part's own features
    columns: slice  # of the columns, counted from the first one


def _overlaps(parts: Sequence[Part], columns: slice) -> Iterator[_Overlap]:
    """The parts that some columns of their concatenated features belong to."""
    ends = itertools.accumulate(part.features.shape[2] for part in parts)
    for part, end in zip(parts, ends, strict=True):
        offset = end - part.features.shape[2]
        start, stop = max(columns.start, offset), min(columns.stop, end)
        if start < stop:
            inputs = slice(start - offset, stop - offset)
            yield _Overlap(part, inputs, slice(start - columns.start, stop - columns.start))


def _symmetric_in_inputs(use: Use, part: Part) -> bool:
    """Whether a part's own block is computed by `_write_symmetric`: that of a layer without positions."""
    return use.gradient.shape[1] == 1 and not part.transposed


def _write_symmetric(block: Tensor, first: int | None, curvature: Tensor, features: Tensor, add: bool) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in j, q and, mostly, in i, p.

    `curvature` M (i, N, p) holds the outputs i from `first` on. The entries with p before i are mirror images, which
    are already written. What is added is mirrored piece by piece, since other things may be there already. Where
    `first` is None, the outputs p are others than the i, and nothing is mirrored in them.
    """
    outputs, width = block.shape[2:]
    features = features.T.contiguous()  # (q, N)
    tile = min(-(-width // 4), TILE)
    rows, _ = at_once(max(-(-outputs // 8), min(-(-PAIRS // outputs), outputs)), outputs, 4 * tile**2, block)
    along = max(cached(block) // (max(rows * outputs, features.shape[1]) * tile), tile)
    for i in slices(0, len(curvature), rows):
        start, stop = (first or 0) + i.start, (first or 0) + i.stop
        p = slice(0 if first is None else start, outputs)
        left = curvature[i, :, p].transpose(1, 2).flatten(0, 1)  # (i p, N)
        for j in slices(0, width, tile):
            for q in slices(j.start, width, along):
                right = (features[j, None] * features[q]).flatten(0, 1)  # (j q, N)
                piece = (left @ right.T).view(stop - start, outputs - p.start, j.stop - j.start, q.stop - q.start)
                rest = slice(max(j.stop, q.start), q.stop)  # the q beyond j, which are mirrored
                beyond = piece[..., rest.start - q.start :]
                put(block[start:stop, j, p, q], piece.permute(0, 2, 1, 3), add)
                put(block[start:stop, rest, p, j], beyond.permute(0, 3, 1, 2), add)
                if add and first is not None:
                    later = stop - start  # of the p
                    block[stop:, j, start:stop, q] += piece[:, later:].permute(1, 2, 0, 3)
                    block[stop:, rest, start:stop, j] += beyond[:, later:].permute(1, 3, 0, 2)
        if not add and first is not None:
            block[stop:, :, start:stop] = block[start:stop, :, stop:].permute(2, 1, 0, 3)


def put(place: Tensor, entries: Tensor, add: bool) -> None:
    """Write entries into a view of the same shape, or add them to what is there."""
    if add:
        place += entries
    else:
        place.copy_(entries)
