"""The sums over samples of the factored Hessian, written into it as blocks of two affine maps' parameters.

Symbols as in `methods.factored`: the block (i, j, p, q) is sum_{n,s,t} a[n,s,j] (M[(s,i),n,(t,p)] a'[n,t,q] +
g'[n,t,p] J[(s,i),n,(t,q)]), of the outputs i and inputs j of one map and p and q of another. It is computed a piece at
a time, which is written, and mirrored, while it is in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

TILE = 16  # inputs of a layer that are done at once where its own block is symmetric in two of them
CACHE, CACHE_GPU = 2**23, 2**27  # bytes of what is computed at once


@dataclass(frozen=True)
class Part:
    """What one parameter is to a call."""

    start: int  # in theta
    features: Tensor  # a (N, S, q) that it multiplies; ones for a bias
    varies: bool  # whether they depend on the shifts of calls before
    transposed: bool  # whether it is (q, p)


@dataclass(frozen=True)
class Use:
    """A call whose parameters are done by matrix products."""

    names: frozenset[str]
    parts: tuple[Part, ...]
    slope: Tensor  # g (N, S, p)
    tied: bool  # whether another call has one of the same parameters

    def outputs(self, vector: Tensor) -> Tensor:
        """What the parameters' entries of `vector` (P,), put in their place, make of the features: (N, S, p)."""
        return sum((part.features @ self.entries(part, vector).T for part in self.parts), torch.zeros_like(self.slope))

    def gather(self, cotangents: Tensor, result: Tensor) -> None:
        """Add to the parameters' entries of `result` (P,) what pulls back cotangents (N, S, p) of the outputs."""
        for part in self.parts:
            place = self.entries(part, result)
            place += cotangents.flatten(0, 1).T @ part.features.flatten(0, 1)

    def entries(self, part: Part, vector: Tensor) -> Tensor:
        """A view of a part's entries of `vector` (P,), as (p, q)."""
        outputs, width = self.slope.shape[2], part.features.shape[2]
        entries = vector[part.start : part.start + outputs * width]
        return entries.view(width, outputs).T if part.transposed else entries.view(outputs, width)


def write(out: Tensor, use: Use, other: Use, first: int, slopes: Tensor, features: Tensor | None) -> None:
    """Write the rows of some outputs, from `first` on, of a call against another's parameters, and their mirror image.

    `slopes` M (i, S, N, T, p), `features` J (i, S, N, T, q).
    """
    add = use.tied or other.tied
    pairs = [(use.parts, other.parts)]
    if other is use:  # a part with those before it; the other pairs are mirror images
        pairs = [(use.parts[: index + 1], (y,)) for index, y in enumerate(use.parts)]
    for parts, others in pairs:
        half = other is use and len(parts) == 1 and not add  # symmetric in i and p
        if half and use.slope.shape[1] == 1 and not parts[0].transposed:
            _write_symmetric(
                _block(out, parts[0], use, parts[0], use), first, slopes[:, 0, :, 0], parts[0].features[:, 0]
            )
            continue
        left, right = (torch.cat([part.features for part in some], dim=2) for some in (parts, others))
        varying = features if features is not None and others[0].varies else None
        for i, j, p, product in _pieces(left, slopes, right, other.slope, varying, first if half else None, out):
            which = slice(first + i.start, first + i.stop)
            for x, inputs, rows in _overlaps(parts, j):
                blocks = product[:, rows].split([y.features.shape[2] for y in others], dim=3)
                for y, block in zip(others, blocks, strict=True):
                    _put(_block(out, x, use, y, other)[which, inputs, p], block, add)
                    if half or x is not y:
                        _put(_block(out, y, other, x, use)[p, :, which, inputs], block.permute(2, 3, 0, 1), add)


def _overlaps(parts: Sequence[Part], columns: slice) -> Iterator[tuple[Part, slice, slice]]:
    """The parts that some columns of their features, one after another, are of; which of theirs, which of these."""
    ends = itertools.accumulate(part.features.shape[2] for part in parts)
    for part, end in zip(parts, ends, strict=True):
        offset = end - part.features.shape[2]
        start, stop = max(columns.start, offset), min(columns.stop, end)
        if start < stop:
            yield part, slice(start - offset, stop - offset), slice(start - columns.start, stop - columns.start)


def _pieces(
    left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None, half: int | None, out: Tensor
) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """The block (i, j, p, q) in pieces that stay in the processor's cache, each with its i, j and p.

    `left` (N, S, j), `slopes` M (i, S, N, T, p), `right` (N, T, q), `slope` g (N, T, p); `varying` J (i, S, N, T, q) is
    of the first columns of `right`: the others, which a bias multiplies, are constant. With `half`, the place of the
    first i among the p, only p from there on are wanted.
    """
    (_, own, inputs), (_, positions, width), outputs = left.shape, right.shape, slope.shape[2]
    moved = slopes.new_zeros(0, 2) if varying is None else varying.abs().amax((1, 2, 3)).nonzero()  # pairs (i, q)
    if own == positions == 1 and 4 * len(moved) <= len(slopes) * width:
        (tile, _), contracted = _at_once(inputs, 1, len(slopes) * outputs * width, out), partial(_by_inputs, moved)
        rows, columns = len(slopes), outputs
    elif own > 1 and own * (1 + 2 * positions / inputs) > 2 * positions:
        each = inputs * (left.shape[0] * positions * (outputs + width) + outputs * width)
        (rows, _), columns, tile, contracted = _at_once(len(slopes), 1, each, out), outputs, inputs, _by_rows
    else:
        (rows, columns), tile = _at_once(len(slopes), outputs, left.shape[0] * own * width, out), inputs
        contracted = _by_outputs
    for i in slices(0, len(slopes), rows):
        along = None if varying is None else varying[i]
        for p in slices(0 if half is None else half + i.start, outputs, columns):
            for j in slices(0, inputs, tile):
                yield i, j, p, contracted(left[..., j], slopes[i, ..., p], right, slope[..., p], along)


def _by_inputs(
    moved: Tensor, left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None
) -> Tensor:
    """The block (i, j, p, q) of layers without positions, one product: it takes 2 N operations an entry.

    For a J that is zero but for few pairs (i, q), `moved`, as of an operation on each output by itself.
    """
    left, right, slope = left[:, 0].T.contiguous(), right[:, 0].T.contiguous(), slope[:, 0].T
    curvature = slopes[:, 0, :, 0].mT  # (i, p, N)
    product = curvature.flatten(0, 1) @ (left[:, None] * right).flatten(0, 1).T
    product = product.view(len(slopes), len(slope), len(left), len(right))
    if varying is not None:
        i, q = moved.unbind(1)
        moved = varying[i, 0, :, 0, q]  # (i q, N)
        product[i, :, :, q] += ((moved[:, None] * slope).flatten(0, 1) @ left.T).view(len(i), len(slope), len(left))
    return product.transpose(1, 2)


def _by_rows(left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None) -> Tensor:
    """The block (i, j, p, q), the sum over the positions s first: it takes 4 N T operations an entry."""
    product = torch.einsum("nsj,isntp->ijpnt", left, slopes).flatten(3) @ right.flatten(0, 1)
    if varying is not None:
        along = torch.einsum("nsj,isntq->ijntq", left, varying).flatten(2, 3)
        product[..., : varying.shape[-1]] += slope.flatten(0, 1).T @ along
    return product


def _by_outputs(left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None) -> Tensor:
    """The block (i, j, p, q), the sum over the positions t first: it takes 2 N S (1 + 2 T / j) operations an entry.

    The inner sums (i, p, q, S, N) are the tangents of the samples' own gradients.
    """
    if slopes.shape[3] == 1:  # samples last, along which the processor's vectors run
        inner = _samples_last(slopes)[:, :, None] * right[:, 0].T.contiguous()[:, None]
        if varying is not None:
            moved = inner[:, :, : varying.shape[-1]]
            moved.addcmul_(slope[:, 0].T.contiguous()[:, None, None], _samples_last(varying)[:, None])
    else:
        inner = torch.einsum("isntp,ntq->ipqsn", slopes, right).contiguous()
        if varying is not None:
            inner[:, :, : varying.shape[-1]] += torch.einsum("ntp,isntq->ipqsn", slope, varying)
    left = left.permute(2, 1, 0).flatten(1)  # (j, S N)
    inner = inner.flatten(3).flatten(1, 2)  # (i, p q, S N)
    return torch.bmm(left.expand(len(inner), -1, -1), inner.mT).unflatten(2, (-1, right.shape[2]))


def _samples_last(tangents: Tensor) -> Tensor:
    """(i, S, N, 1, p) as (i, p, S, N)."""
    return tangents[:, :, :, 0].permute(0, 3, 1, 2).contiguous()


def _write_symmetric(block: Tensor, first: int, curvature: Tensor, features: Tensor) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in i, p and in j, q.

    `curvature` M (i, N, p) holds the outputs from `first` on; of the others only those after are still to be written.
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
                part = (left @ right.T).view(stop - start, outputs - start, j.stop - j.start, q.stop - q.start)
                block[start:stop, j, start:, q] = part.permute(0, 2, 1, 3)
                rest = slice(max(j.stop, q.start), q.stop)
                block[start:stop, rest, start:, j] = part[..., rest.start - q.start :].permute(0, 3, 1, 2)
        block[stop:, :, start:stop] = block[start:stop, :, stop:].permute(2, 1, 0, 3)


def _at_once(rows: int, columns: int, each: int, out: Tensor) -> tuple[int, int]:
    """How many rows and columns of entries, `each` numbers wide, stay in the processor's cache."""
    fit = max(_cached(out) // each, 1)
    return (min(fit // columns, rows), columns) if fit >= columns else (1, fit)


def _cached(out: Tensor) -> int:
    """Numbers like those of `out` in what is computed at once."""
    return (CACHE if out.device.type == "cpu" else CACHE_GPU) // out.element_size()


def slices(start: int, stop: int, step: int) -> list[slice]:
    """The slices of `step` that cover start to stop."""
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _put(place: Tensor, block: Tensor, add: bool) -> None:
    if add:
        place += block
    else:
        place.copy_(block)


def _block(out: Tensor, x: Part, use: Use, y: Part, other: Use) -> Tensor:
    """The block of two parameters as (i, j, p, q), a view of out."""
    (p, q), (r, s) = ((u.slope.shape[2], part.features.shape[2]) for u, part in ((use, x), (other, y)))
    down, along = out.stride()
    rows = (down, down * p) if x.transposed else (down * q, down)
    columns = (along, along * r) if y.transposed else (along * s, along)
    start = out.storage_offset() + x.start * down + y.start * along
    return out.as_strided((p, q, r, s), (*rows, *columns), start)


def drawn(like: Tensor) -> Tensor:
    """Normal draws of a fixed seed, so that the global generator stays as it was."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(like)


def close(difference: Tensor, to: Tensor) -> bool:
    """Whether a difference is no more than rounding: below 1,000 units in the last place, in the norm."""
    small = 1000 * torch.finfo(to.dtype).eps
    return bool(difference.double().norm() <= small * to.double().norm())
