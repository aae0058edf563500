"""The sums over samples of the factored Hessian, written into it as blocks of two affine maps' parameters.

Symbols as in `methods.factored`. A block (i, j, p, q) holds the outputs i and inputs j of one map, p and q of another:

    sum_{n,s,t} a[n,s,j] (M[(s,i),n,(t,p)] a'[n,t,q] + g'[n,t,p] J[(s,i),n,(t,q)])

It is computed in pieces. Each piece is written, and mirrored, while it is in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from methods.factoring.numerics import slices
from methods.factoring.uses import Part, Use

TILE = 16  # inputs of a layer that are done at once where its own block is symmetric in two of them
CACHE, CACHE_GPU = 2**23, 2**27  # bytes of what is computed at once


def write(out: Tensor, use: Use, other: Use, first: int, curvature: Tensor, jacobian: Tensor | None) -> None:
    """Write into `out` (P, P) rows of one call's parameters against another's, and their mirror image.

    The rows are those of some outputs i, from `first` on. `curvature` is M (i, S, N, T, p), `jacobian` J (i, S, N, T,
    q). Adds to what is there where one of the calls is tied.
    """
    if other is use:  # each part with itself and those before it; the other pairs are mirror images
        for index, part in enumerate(use.parts):
            _write_parts(out, use, use.parts[: index + 1], use, (part,), first, curvature, jacobian)
    else:
        _write_parts(out, use, use.parts, other, other.parts, first, curvature, jacobian)


def _write_parts(
    out: Tensor,
    use: Use,
    parts: Sequence[Part],
    other: Use,
    others: Sequence[Part],
    first: int,
    curvature: Tensor,
    jacobian: Tensor | None,
) -> None:
    """As `write`, for some parts of the calls."""
    add = use.tied or other.tied
    symmetric = other is use and len(parts) == 1 and not add  # in i and p: only p from i on are computed
    if symmetric and use.gradient.shape[1] == 1 and not parts[0].transposed:
        block = _block(out, use, parts[0], use, parts[0])
        _write_symmetric(block, first, curvature[:, 0, :, 0], parts[0].features[:, 0])
        return
    factors = _Factors(
        left=torch.cat([part.features for part in parts], dim=2),
        curvature=curvature,
        right=torch.cat([part.features for part in others], dim=2),
        gradient=other.gradient,
        jacobian=jacobian if others[0].varies else None,
    )
    widths = [part.features.shape[2] for part in others]
    for i, j, p, piece in _pieces(factors, first if symmetric else None, out):
        which = slice(first + i.start, first + i.stop)
        for x, inputs, rows in _overlaps(parts, j):
            for y, entries in zip(others, piece[:, rows].split(widths, dim=3), strict=True):
                _put(_block(out, use, x, other, y)[which, inputs, p], entries, add)
                if symmetric or x is not y:
                    _put(_block(out, other, y, use, x)[p, :, which, inputs], entries.permute(2, 3, 0, 1), add)


def _overlaps(parts: Sequence[Part], columns: slice) -> Iterator[tuple[Part, slice, slice]]:
    """The parts that some columns of their concatenated features belong to.

    With each part come the slice of its own features, and the slice of `columns` (counted from their start).
    """
    ends = itertools.accumulate(part.features.shape[2] for part in parts)
    for part, end in zip(parts, ends, strict=True):
        offset = end - part.features.shape[2]
        start, stop = max(columns.start, offset), min(columns.stop, end)
        if start < stop:
            yield part, slice(start - offset, stop - offset), slice(start - columns.start, stop - columns.start)


@dataclass(frozen=True)
class _Factors:
    """What a block (i, j, p, q) is the product of."""

    left: Tensor  # a (N, S, j)
    curvature: Tensor  # M (i, S, N, T, p)
    right: Tensor  # a' (N, T, q)
    gradient: Tensor  # g' (N, T, p)
    jacobian: Tensor | None  # J (i, S, N, T, q), of the first columns of `right`; the others, of a bias, are constant

    def piece(self, i: slice, j: slice, p: slice) -> _Factors:
        """The factors of a part of the block."""
        jacobian = None if self.jacobian is None else self.jacobian[i]
        return _Factors(self.left[..., j], self.curvature[i, ..., p], self.right, self.gradient[..., p], jacobian)


def _pieces(factors: _Factors, half: int | None, out: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """The block (i, j, p, q) in pieces that stay in the processor's cache, each with its i, j and p.

    `half` is the place of the first i among the p; then only the p from each piece's i on are computed.
    """
    (rows, inputs, columns), contracted = _contraction(factors, out)
    outputs = factors.gradient.shape[2]
    for i in slices(0, len(factors.curvature), rows):
        for p in slices(0 if half is None else half + i.start, outputs, columns):
            for j in slices(0, factors.left.shape[2], inputs):
                yield i, j, p, contracted(factors.piece(i, j, p))


def _contraction(factors: _Factors, out: Tensor) -> tuple[tuple[int, int, int], Callable[[_Factors], Tensor]]:
    """The order of summation with the fewest operations, and how many i, j and p fit the cache at once."""
    samples, own, inputs = factors.left.shape  # N, S, j
    _, positions, width = factors.right.shape  # T, q
    rows, outputs = len(factors.curvature), factors.gradient.shape[2]  # i, p
    moved = _moved(factors)
    if own == positions == 1 and 4 * len(moved) <= rows * width:
        tile, _ = _at_once(inputs, 1, rows * outputs * width, out)
        return (rows, tile, outputs), partial(_by_inputs, moved)
    if own > 1 and own * (1 + 2 * positions / inputs) > 2 * positions:
        numbers = inputs * (samples * positions * (outputs + width) + outputs * width)
        fitting, _ = _at_once(rows, 1, numbers, out)
        return (fitting, inputs, outputs), _by_rows
    fitting, columns = _at_once(rows, outputs, samples * own * width, out)
    return (fitting, inputs, columns), _by_outputs


def _moved(factors: _Factors) -> Tensor:
    """The pairs (i, q) for which J is not zero, as rows (k, 2)."""
    if factors.jacobian is None:
        return factors.curvature.new_zeros(0, 2)
    return factors.jacobian.abs().amax((1, 2, 3)).nonzero()


def _by_inputs(moved: Tensor, factors: _Factors) -> Tensor:
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


def _by_rows(factors: _Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions s first: it takes 4 N T operations an entry."""
    inner = torch.einsum("nsj,isntp->ijpnt", factors.left, factors.curvature).flatten(3)
    block = inner @ factors.right.flatten(0, 1)
    if factors.jacobian is not None:
        inner = torch.einsum("nsj,isntq->ijntq", factors.left, factors.jacobian).flatten(2, 3)
        block[..., : factors.jacobian.shape[-1]] += factors.gradient.flatten(0, 1).T @ inner
    return block


def _by_outputs(factors: _Factors) -> Tensor:
    """The block (i, j, p, q), the sum over the positions t first: it takes 2 N S (1 + 2 T / j) operations an entry.

    The inner sums (i, p, q, S, N) are derivatives of each sample's own gradient.
    """
    one_position = factors.right.shape[1] == 1
    inner = _inner_of_one_position(factors) if one_position else _inner_of_positions(factors)
    left = factors.left.permute(2, 1, 0).flatten(1)  # (j, S N)
    inner = inner.flatten(3).flatten(1, 2)  # (i, p q, S N)
    return torch.bmm(left.expand(len(inner), -1, -1), inner.mT).unflatten(2, (-1, factors.right.shape[2]))


def _inner_of_positions(factors: _Factors) -> Tensor:
    inner = torch.einsum("isntp,ntq->ipqsn", factors.curvature, factors.right).contiguous()
    if factors.jacobian is not None:
        change = torch.einsum("ntp,isntq->ipqsn", factors.gradient, factors.jacobian)
        inner[:, :, : factors.jacobian.shape[-1]] += change
    return inner


def _inner_of_one_position(factors: _Factors) -> Tensor:
    """The samples come last, since the processor's vector instructions run along them."""
    inner = _samples_last(factors.curvature)[:, :, None] * factors.right[:, 0].T.contiguous()[:, None]
    if factors.jacobian is not None:
        gradient = factors.gradient[:, 0].T.contiguous()[:, None, None]
        inner[:, :, : factors.jacobian.shape[-1]].addcmul_(gradient, _samples_last(factors.jacobian)[:, None])
    return inner


def _samples_last(derivatives: Tensor) -> Tensor:
    """(i, S, N, 1, p) as (i, p, S, N)."""
    return derivatives[:, :, :, 0].permute(0, 3, 1, 2).contiguous()


def _write_symmetric(block: Tensor, first: int, curvature: Tensor, features: Tensor) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in i, p and in j, q.

    `curvature` M (i, N, p) holds the outputs i from `first` on. The entries with p before i are mirror images, which
    are already written.
    """
    outputs, width = block.shape[:2]
    features = features.T.contiguous()  # (q, N)
    tile = min(-(-width // 4), TILE)
    rows, _ = _at_once(-(-outputs // 8), outputs, 4 * tile**2, block)
    along = max(_cached(block) // (rows * outputs * tile), tile)
    for i in slices(0, len(curvature), rows):
        start, stop = first + i.start, first + i.stop
        left = curvature[i, :, start:].transpose(1, 2).flatten(0, 1)  # (i p, N)
        for j in slices(0, width, tile):
            for q in slices(j.start, width, along):
                right = (features[j, None] * features[q]).flatten(0, 1)  # (j q, N)
                piece = (left @ right.T).view(stop - start, outputs - start, j.stop - j.start, q.stop - q.start)
                block[start:stop, j, start:, q] = piece.permute(0, 2, 1, 3)
                rest = slice(max(j.stop, q.start), q.stop)  # the q beyond j, which are mirrored
                block[start:stop, rest, start:, j] = piece[..., rest.start - q.start :].permute(0, 3, 1, 2)
        block[stop:, :, start:stop] = block[start:stop, :, stop:].permute(2, 1, 0, 3)


def _at_once(rows: int, columns: int, each: int, out: Tensor) -> tuple[int, int]:
    """How many rows and columns of entries, `each` numbers wide, stay in the processor's cache."""
    fit = max(_cached(out) // each, 1)
    return (min(fit // columns, rows), columns) if fit >= columns else (1, fit)


def _cached(out: Tensor) -> int:
    """How many numbers of the dtype of `out` are computed at once."""
    return (CACHE if out.device.type == "cpu" else CACHE_GPU) // out.element_size()


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
