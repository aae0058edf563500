"""The derivatives between calls of affine maps, chained backwards over the segments of a network.

Let y be what passes the cut after a segment, and K = d^2 loss / dy de_k and d a_k / dy for the calls k behind it. For a
shift e_l within the segment, and e_l' too,

    M_lk = (dy/de_l)^T K_yk,    J_lk = d a_k / dy dy/de_l
    M_ll' = (d^2 <g_y, y> / de_l de_l') + (dy/de_l)^T M_yy (dy/de_l')

where the first term and dy/de_l are the segment's own derivatives. The same holds for the tensors x that pass the cut
before it, which gives K_x for the segment before. All products are those of small matrices, one for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.numerics import drawn, slices
from methods.factoring.certificate import Certificate
from methods.factoring.segments import Directions, Place, Segment
from methods.factoring.shifts import check
from methods.factoring.uses import Use

Column = tuple[str, int]  # "shift" or "input" of a call


class Pair(NamedTuple):
    """The derivatives between some outputs of one call and a call that is the same or later."""

    use: Use
    other: Use
    first: int  # of these outputs of `use`
    curvature: Tensor  # M (i, S, N, T, p), of the gradients of `other`
    jacobian: Tensor | None  # J (i, S, N, T, q), of the features of `other`; None where these do not vary


@dataclass(frozen=True)
class Behind:
    """Second derivatives of the loss along the tensors that pass a cut, and derivatives of what comes after it."""

    matrix: Tensor  # (N, Y, Z) along these tensors; the first Y columns are for themselves
    columns: dict[Column, slice]

    @property
    def own(self) -> Tensor:
        """The second derivatives (N, Y, Y) along these tensors alone."""
        return self.matrix[:, :, : self.matrix.shape[1]]


    def split(self, along: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The derivatives of shifts and of inputs of calls, of derivatives (..., Z) in the order of the columns."""
        found: dict[str, dict[int, Tensor]] = {"shift": {}, "input": {}}
        for (what, call), at in self.columns.items():
            found[what][call] = along[..., at]
        return found["shift"], found["input"]


class Jacobian:
    """Derivatives of the tensors that pass a cut along the shifts of a place: of all (N, S, p, Y), or position by
    position, of each tensor's own (N, S, p, Y / S)."""

    def __init__(self, blocks: Sequence[Tensor], apart: bool) -> None:
        self._blocks, self._apart = blocks, apart

    def some(self, outputs: slice) -> Jacobian:
        """That along the shifts of some outputs."""
        return Jacobian([block[:, :, outputs] for block in self._blocks], self._apart)

    @classmethod
    def joined(cls, parts: Sequence[Jacobian]) -> Jacobian:
        """That along the shifts of all outputs."""
        blocks = [torch.cat(blocks, dim=2) for blocks in zip(*(part._blocks for part in parts), strict=True)]
        return cls(blocks, parts[0]._apart)

    def times(self, matrix: Tensor) -> Tensor:
        """The product (N, S p, Z) with a matrix (N, Y, Z)."""
        if not self._apart:
            return _sparse_product(self._blocks[0].flatten(1, 2), matrix)
        products, start = [], 0
        for block in self._blocks:
            samples, positions, _, width = block.shape
            rows = matrix[:, start : start + positions * width].reshape(samples * positions, width, -1)
            products.append(torch.bmm(block.flatten(0, 1), rows))
            start += positions * width
        return sum(products[1:], products[0]).view(len(matrix), -1, matrix.shape[2])


def _sparse_product(left: Tensor, right: Tensor) -> Tensor:
    """The product (N, U, Z) of (N, U, Y) and (N, Y, Z), where rows of `left` may be zero but for few columns.

    Rows that are zero at the same places for all samples, as those of one head of an attention, are multiplied
    together. On a GPU, which would have to wait for the places, the product is a dense one.
    """
    if right.is_cuda:
        return torch.bmm(left, right)
    nonzero = (left != 0).any(0)  # (U, Y)
    keys = nonzero.double() @ drawn(nonzero[0].double())
    _, kinds = keys.unique(return_inverse=True)
    firsts = kinds.new_empty(int(kinds.max()) + 1).scatter_(0, kinds, torch.arange(len(kinds)))
    supports, counts = nonzero[firsts].sum(1), kinds.bincount()
    if 2 * int(supports @ counts) > nonzero.numel():
        return torch.bmm(left, right)
    result = right.new_zeros(len(right), left.shape[1], right.shape[2])
    by_kind = kinds.argsort(stable=True).split(counts.tolist())
    shapes = torch.stack([counts, supports], dim=1)
    for count, support in shapes.unique(dim=0).tolist():
        if not support:
            continue
        same = ((counts == count) & (supports == support)).nonzero().flatten().tolist()
        rows = torch.stack([by_kind[kind] for kind in same])  # (kinds, count)
        columns = nonzero[firsts[same]].nonzero()[:, 1].view(len(same), support)
        some = left[:, rows[:, :, None], columns[:, None]].flatten(0, 1)
        result[:, rows] = torch.bmm(some, right[:, columns].flatten(0, 1)).unflatten(0, (-1, len(same)))
    return result


@dataclass(frozen=True)
class Rows:
    """A segment's own derivatives along the shifts of some outputs i of a place."""

    outputs: slice
    shifts: dict[Place, Tensor]  # M of places in the same segment (N, S, i, S' p')
    inputs: dict[int, Tensor]  # of calls in it (N, S, i, entries of the input)
    jacobian: Jacobian | None  # of the tensors that pass the cut after it

    def some(self, outputs: slice) -> Rows:
        """Those along the shifts of some of all outputs."""
        return Rows(
            outputs,
            {target: x[:, :, outputs] for target, x in self.shifts.items()},
            {call: x[:, :, outputs] for call, x in self.inputs.items()},
            None if self.jacobian is None else self.jacobian.some(outputs),
        )


class Chain:
    """Goes through the segments of a network from the last to the first."""

    def __init__(self, uses: Sequence[Use], segments: Sequence[Segment], memory: float) -> None:
        self._uses, self._segments, self._memory = uses, segments, memory
        self._walked: list[tuple[Directions, list[Use]]] = []  # of each place, and the calls that depend on it

    def pairs(self) -> Iterator[Pair]:
        """The derivatives between every two calls. Raises Refused where torch has no rule for an operation."""
        behind = None
        for segment in reversed(self._segments):
            stage = _Stage(segment, behind, self._uses, self._memory)
            yield from stage.pairs()
            behind = stage.behind()
            if behind is not None:
                yield from _pairs_of_cut(self._uses, segment.before, behind, self._memory)
            self._walked += [(found, self._dependent(segment, place)) for place, found in stage.directions.items()]

    def _dependent(self, segment: Segment, place: Place) -> list[Use]:
        """The calls whose derivatives are wrong where the shifts of a place mix samples."""
        if place.tensor is None:
            return [self._uses[place.index]]
        earlier = self._segments[: self._segments.index(segment)]
        calls = {place.index for before in earlier for place in (*before.inside, *before.after)}
        return [self._uses[call] for call in calls if call is not None]

    def mixed(self, certificate: Certificate, precision: torch.dtype) -> Iterator[Use]:
        """The calls whose samples depend on each other. Raises Refused as `check`."""
        flags = check([directions.found() for directions, _ in self._walked], certificate, precision)
        for flag, (_, dependent) in zip(flags, self._walked, strict=True):
            yield from dependent if flag else []


class _Stage:
    """One segment, with what is known behind it."""

    def __init__(self, segment: Segment, behind: Behind | None, uses: Sequence[Use], memory: float) -> None:
        self._segment, self._behind, self._uses, self._memory = segment, behind, uses, memory
        self.directions: dict[Place, Directions] = {}
        # Where positions are treated apart, derivatives along entries come after all others, and give those too.
        self._order = sorted(segment.places, key=self._is_last)
        self._all: dict[Place, Rows] = {}
        self._through: dict[Place, Tensor] = {}  # M_yy (dy/de)^T (N, Y, S p)
        if behind is not None:
            self._all = {place: _joined(list(self._along(place))) for place in self._order}
            for place, rows in self._all.items():
                assert rows.jacobian is not None
                self._through[place] = rows.jacobian.times(behind.own).mT

    def _is_last(self, place: Place) -> bool:
        return self._segment.positions > 1 and place.by_entries

    def _targets(self, place: Place) -> list[Place]:
        """The places whose second derivatives with a place come from the shifts of that place."""
        at = 0 if place.tensor is not None else self._order.index(place)
        if self._is_last(place):
            return [target for target in self._order if not self._is_last(target)] + self._order[at:]
        return [target for target in self._order[at:] if not self._is_last(target)]

    def _along(self, place: Place) -> Iterator[Rows]:
        """The segment's own derivatives along the shifts of a place, some outputs at a time."""
        segment, targets, apart = self._segment, self._targets(place), self._segment.apart(place)
        directions = self.directions[place] = Directions(segment, place, targets)
        at_once = min(segment.at_once(place, self._memory), _fitting(place, self._uses, self._memory))
        like = place.gradient
        for outputs in slices(0, like.shape[2], at_once):
            found = directions.along(outputs)
            shifts = [_by_sample(x, like, apart) for x in found.gradients]
            inputs = [_by_sample(x, like, apart) for x in found.inputs]
            yield Rows(
                outputs,
                dict(zip(targets, shifts, strict=True)),
                dict(zip(segment.inputs, inputs, strict=True)),
                _jacobian(found.after, like, apart) if found.after else None,
            )

    def pairs(self) -> Iterator[Pair]:
        """The derivatives between the calls in the segment, and between them and those behind it."""
        for place in self._segment.inside:
            if not self._all:
                for rows in self._along(place):
                    yield from self._pairs_of(place, rows)
            elif self._is_last(place):
                yield from self._pairs_of(place, self._all[place])
            else:
                for outputs in slices(0, place.gradient.shape[2], _fitting(place, self._uses, self._memory)):
                    yield from self._pairs_of(place, self._all[place].some(outputs))

    def _pairs_of(self, place: Place, rows: Rows) -> Iterator[Pair]:
        """The pairs that the rows along shifts of a call give."""
        assert place.index is not None
        for target, own in rows.shifts.items():
            if target.tensor is not None or target.index is None:
                continue
            curvature = own if rows.jacobian is None else own + rows.jacobian.times(self._through[target]).view_as(own)
            if place.index <= target.index:
                inputs = None if target is place else rows.inputs.get(target.index)
                yield _pair(self._uses, place, rows.outputs, target.index, curvature, inputs)
            else:  # of entries and an earlier call
                mirrored = curvature.flatten(1, 2).mT.unflatten(1, target.gradient.shape[1:])
                whole = slice(0, target.gradient.shape[2])
                yield _pair(self._uses, target, whole, place.index, mirrored, None)
        if self._behind is not None and rows.jacobian is not None:
            matrix = rows.jacobian.times(self._behind.matrix).unflatten(1, (place.gradient.shape[1], -1))
            shifts, inputs = self._behind.split(matrix)
            yield from _pairs_behind(self._uses, place, rows.outputs, shifts, rows.inputs | inputs)

    def behind(self) -> Behind | None:
        """The derivatives along the tensors that pass the cut before the segment; None for the first segment."""
        before = self._segment.before
        if not before:
            return None
        along = [self._along_cut(place) for place in before]
        columns, start = dict[Column, slice](), 0
        for column, found in along[0]:
            if column is not None:
                columns[column] = slice(start, start + found.shape[2])
            start += found.shape[2]
        return Behind(torch.cat([torch.cat([found for _, found in each], dim=2) for each in along], dim=1), columns)

    def _along_cut(self, place: Place) -> list[tuple[Column | None, Tensor]]:
        """The derivatives (N, S p, ...) along a tensor that passes the cut before, by what they are of."""
        rows = self._all.get(place) or _joined(list(self._along(place)))
        found: list[tuple[Column | None, Tensor]] = []
        for target in self._segment.places:
            own = rows.shifts[target] if target in rows.shifts else self._all[target].shifts[place]
            own = own.flatten(1, 2) if target in rows.shifts else own.flatten(1, 2).mT
            if rows.jacobian is not None:
                own = own + rows.jacobian.times(self._through[target])
            found.append((None if target.index is None else ("shift", target.index), own))
        found += [(("input", call), inputs.flatten(1, 2)) for call, inputs in rows.inputs.items()]
        if self._behind is not None and rows.jacobian is not None:
            later = rows.jacobian.times(self._behind.matrix)
            found += [(column, later[:, :, place]) for column, place in self._behind.columns.items()]
        return found


def _joined(rows: Sequence[Rows]) -> Rows:
    """The rows along all shifts of a place."""
    first = rows[0]
    if len(rows) == 1:
        return first
    jacobians = [part.jacobian for part in rows if part.jacobian is not None]
    return Rows(
        slice(0, rows[-1].outputs.stop),
        {target: torch.cat([part.shifts[target] for part in rows], dim=2) for target in first.shifts},
        {call: torch.cat([part.inputs[call] for part in rows], dim=2) for call in first.inputs},
        Jacobian.joined(jacobians) if jacobians else None,
    )


def _pairs_of_cut(uses: Sequence[Use], before: Sequence[Place], behind: Behind, memory: float) -> Iterator[Pair]:
    """The pairs of the calls whose outputs pass a cut."""
    start = 0
    for place in before:
        if place.index is not None:
            matrix = behind.matrix[:, start : start + place.size].unflatten(1, place.gradient.shape[1:])
            for outputs in slices(0, matrix.shape[2], _fitting(place, uses, memory)):
                shifts, inputs = behind.split(matrix[:, :, outputs])
                yield from _pairs_behind(uses, place, outputs, shifts, inputs)
        start += place.size


def _pairs_behind(
    uses: Sequence[Use], place: Place, outputs: slice, shifts: Mapping[int, Tensor], inputs: Mapping[int, Tensor]
) -> Iterator[Pair]:
    """The pairs of some outputs i of a call, from derivatives (N, S, i, ...) of shifts and inputs of calls."""
    assert place.index is not None
    for call, curvature in shifts.items():
        if call >= place.index:
            moved = None if call == place.index else inputs.get(call)
            yield _pair(uses, place, outputs, call, curvature, moved)


def _pair(
    uses: Sequence[Use], place: Place, outputs: slice, other: int, curvature: Tensor, inputs: Tensor | None
) -> Pair:
    """A pair, from derivatives (N, S, i, ...) of the shifts of the other call, and of its input."""
    assert place.index is not None
    use = uses[other]
    jacobian = None
    if inputs is not None:
        moved = inputs.permute(2, 1, 0, 3).reshape(-1, *use.call.input.shape)  # (i S, ...)
        features = torch.func.vmap(use.call.features)(moved)
        jacobian = features.unflatten(0, (-1, inputs.shape[1]))
    curvature = curvature.unflatten(3, use.gradient.shape[1:]).permute(2, 1, 0, 3, 4)
    return Pair(uses[place.index], use, outputs.start, curvature, jacobian)


def _fitting(place: Place, uses: Sequence[Use], memory: float) -> int:
    """How many outputs of a place have derivatives that fit the memory; at least one."""
    numbers = sum(use.gradient[0].numel() + use.parts[0].features[0].numel() for use in uses)
    each = 4 * place.gradient.element_size() * place.gradient.shape[0] * place.gradient.shape[1] * numbers
    return max(int(memory / each), 1)


def _jacobian(found: Sequence[Tensor], like: Tensor, apart: bool) -> Jacobian:
    """The Jacobian along the shifts of some outputs i of a place like (N, S, p), from derivatives as `_by_sample`'s."""
    samples, positions, _ = like.shape
    if not apart:
        return Jacobian([torch.cat([_by_sample(x, like, apart) for x in found], dim=3)], apart)
    return Jacobian([x.reshape(len(x), samples, positions, -1).permute(1, 2, 0, 3) for x in found], apart)


def _by_sample(derivatives: Tensor, like: Tensor, apart: bool) -> Tensor:
    """Derivatives along the shifts of some outputs i of a place like (N, S, p), by sample: (N, S, i, entries).

    They come as (S i, N, ...); or as (i, N, S, ...) from shifts of all positions at once, for positions treated apart.
    """
    samples, positions, _ = like.shape
    if not apart:
        return derivatives.reshape(positions, -1, samples, derivatives[0, 0].numel()).permute(2, 0, 1, 3)
    blocks = derivatives.reshape(len(derivatives), samples, positions, -1)  # (i, N, S, q)
    result = blocks.new_zeros(samples, positions, len(blocks), positions, blocks.shape[3])
    result.diagonal(dim1=1, dim2=3).copy_(blocks.permute(1, 0, 3, 2))
    return result.flatten(3)
