"""The sums over samples of the factored Hessian, written into it as blocks of two affine maps' parameters.

Symbols as in `methods.factored`. A block (i, j, p, q) holds the outputs i and inputs j of one map, p and q of another:

    sum_{n,s,t} a[n,s,j] (M[(s,i),n,(t,p)] a'[n,t,q] + g'[n,t,p] J[(s,i),n,(t,q)])

`contractions` computes it in pieces. Each piece is written, and mirrored, while it is in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.contractions import Factors, at_once, cached, pieces
from methods.factoring.numerics import slices
from methods.factoring.uses import Part, Use

# Where a layer's own block is symmetric in two outputs and in two inputs:
TILE = 16  # inputs that are computed at once
PAIRS = 64  # pairs of outputs for which a product of features is formed once, even if some are mirror images


def write(out: Tensor, use: Use, other: Use, first: int, curvature: Tensor, jacobian: Tensor | None, add: bool) -> None:
    """Write into `out` (P, P) rows of one call's parameters against another's, and their mirror image.

    The rows are those of some outputs i, from `first` on. `curvature` is M (i, S, N, T, p), `jacobian` J (i, S, N, T,
    q). With `add` they are added to what is there.
    """
    if other is use:  # each part with itself and those before it; the other pairs are mirror images
        for index, part in enumerate(use.parts):
            _write_parts(out, use, use.parts[: index + 1], use, (part,), first, curvature, jacobian, add)
    else:
        _write_parts(out, use, use.parts, other, other.parts, first, curvature, jacobian, add)


def _write_parts(
    out: Tensor,
    use: Use,
    parts: Sequence[Part],
    other: Use,
    others: Sequence[Part],
    first: int,
    curvature: Tensor,
    jacobian: Tensor | None,
    add: bool,
) -> None:
    """As `write`, for some parts of the calls."""
    symmetric = other is use and len(parts) == 1  # in i and p: only p from i on are computed
    if symmetric and use.gradient.shape[1] == 1 and not parts[0].transposed:
        block = _block(out, use, parts[0], use, parts[0])
        _write_symmetric(block, first, curvature[:, 0, :, 0], parts[0].features[:, 0], add)
        return
    factors = Factors(
        left=torch.cat([part.features for part in parts], dim=2),
        curvature=curvature,
        right=torch.cat([part.features for part in others], dim=2),
        gradient=other.gradient,
        jacobian=jacobian if others[0].varies else None,
    )
    widths = [part.features.shape[2] for part in others]
    for i, j, p, piece in pieces(factors, first if symmetric else None, out):
        which = slice(first + i.start, first + i.stop)
        for x, inputs, rows in _overlaps(parts, j):
            for y, entries in zip(others, piece[:, rows].split(widths, dim=3), strict=True):
                _put(_block(out, use, x, other, y)[which, inputs, p], entries, add)
                if symmetric or x is not y:
                    mirrored = slice(max(p.start, which.stop), p.stop) if symmetric else p  # the others are computed
                    image = entries[:, :, mirrored.start - p.start :].permute(2, 3, 0, 1)
                    _put(_block(out, other, y, use, x)[mirrored, :, which, inputs], image, add)


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


def _write_symmetric(block: Tensor, first: int, curvature: Tensor, features: Tensor, add: bool) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in i, p and in j, q.

    `curvature` M (i, N, p) holds the outputs i from `first` on. The entries with p before i are mirror images, which
    are already written. What is added is mirrored piece by piece, since other things may be there already.
    """
    outputs, width = block.shape[:2]
    features = features.T.contiguous()  # (q, N)
    tile = min(-(-width // 4), TILE)
    rows, _ = at_once(max(-(-outputs // 8), min(-(-PAIRS // outputs), outputs)), outputs, 4 * tile**2, block)
    along = max(cached(block) // (max(rows * outputs, features.shape[1]) * tile), tile)
    for i in slices(0, len(curvature), rows):
        start, stop = first + i.start, first + i.stop
        left = curvature[i, :, start:].transpose(1, 2).flatten(0, 1)  # (i p, N)
        for j in slices(0, width, tile):
            for q in slices(j.start, width, along):
                right = (features[j, None] * features[q]).flatten(0, 1)  # (j q, N)
                piece = (left @ right.T).view(stop - start, outputs - start, j.stop - j.start, q.stop - q.start)
                rest = slice(max(j.stop, q.start), q.stop)  # the q beyond j, which are mirrored
                beyond = piece[..., rest.start - q.start :]
                _put(block[start:stop, j, start:, q], piece.permute(0, 2, 1, 3), add)
                _put(block[start:stop, rest, start:, j], beyond.permute(0, 3, 1, 2), add)
                if add:
                    later = stop - start  # of the p
                    block[stop:, j, start:stop, q] += piece[:, later:].permute(1, 2, 0, 3)
                    block[stop:, rest, start:stop, j] += beyond[:, later:].permute(1, 3, 0, 2)
        if not add:
            block[stop:, :, start:stop] = block[start:stop, :, stop:].permute(2, 1, 0, 3)


def _put(place: Tensor, entries: Tensor, add: bool) -> None:
    if add:
        place += entries
    else:
        place.copy_(entries)


def _block(out: Tensor, use: Use, x: Part, other: Use, y: Part) -> Tensor:
    """The block of two parameters, as a view (i, j, p, q) of `out`."""
    outputs, inputs = use.gradient.shape[2], x.features.shape[2]
    other_outputs, other_inputs = other.gradient.shape[2], y.features.shape[2]
    down, along = out.stride()
    rows = (down, down * outputs) if x.transposed else (down * inputs, down)
    columns = (along, along * other_outputs) if y.transposed else (along * other_inputs, along)
    start = out.storage_offset() + x.start * down + y.start * along
    return out.as_strided((outputs, inputs, other_outputs, other_inputs), (*rows, *columns), start)
