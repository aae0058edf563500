"""The derivatives between calls of affine maps, chained backwards over the segments of a network.

Let y be what passes the cut after a segment, and K = d^2 loss / dy de_k and d a_k / dy for the calls k behind it. For a
shift e_l within the segment, and e_l' too,

    M_lk = (dy/de_l)^T K_yk,    J_lk = d a_k / dy dy/de_l
    M_ll' = (d^2 <g_y, y> / de_l de_l') + (dy/de_l)^T M_yy (dy/de_l')

where the first term and dy/de_l are the segment's own derivatives. The same holds for the tensors x that pass the cut
before it, which gives K_x for the segment before. All products are those of small matrices, one for each sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.factoring.jacobian import Jacobian, Term
from methods.factoring.numerics import slices
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
                product = behind.own.new_zeros(len(behind.own), place.size, behind.own.shape[1])
                rows.jacobian.add_product(behind.own, product)
                self._through[place] = product.mT

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
                self._jacobian(place, found.after) if found.after else None,
            )

    def _jacobian(self, place: Place, found: Sequence[Tensor]) -> Jacobian:
        """The Jacobian along the shifts of some outputs of a place, from derivatives as `_by_sample` takes them."""
        terms, start, apart = [], 0, self._segment.apart(place)
        samples, positions, _ = place.gradient.shape
        for tensor, x in zip(self._segment.after, found, strict=True):
            of = slice(start, start + tensor.size)
            start = of.stop
            if all(tensor.tensor is not before.tensor for before in self._segment.before):
                block = (
                    _by_sample(x, place.gradient, False)
                    if not apart
                    else x.reshape(len(x), samples, positions, -1).permute(1, 2, 0, 3)
                )
                terms.append(Term(of, block, apart))
            elif tensor.tensor is place.tensor:
                terms.append(Term(of, None, apart))
        return Jacobian(terms)

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
            curvature = own
            if rows.jacobian is not None:
                curvature = own.flatten(1, 2).clone()
                rows.jacobian.add_product(self._through[target], curvature)
                curvature = curvature.view_as(own)
            if place.index <= target.index:
                inputs = None if target is place else rows.inputs.get(target.index)
                yield _pair(self._uses, place, rows.outputs, target.index, curvature, inputs)
            else:  # of entries and an earlier call
                mirrored = curvature.flatten(1, 2).mT.unflatten(1, target.gradient.shape[1:])
                whole = slice(0, target.gradient.shape[2])
                yield _pair(self._uses, target, whole, place.index, mirrored, None)
        if self._behind is not None and rows.jacobian is not None:
            known = self._behind.matrix
            positions, outputs = place.gradient.shape[1], rows.outputs.stop - rows.outputs.start
            product = known.new_zeros(len(known), positions * outputs, known.shape[2])
            rows.jacobian.add_product(known, product)
            shifts, inputs = self._behind.split(product.unflatten(1, (positions, outputs)))
            yield from _pairs_behind(self._uses, place, rows.outputs, shifts, rows.inputs | inputs)

    def behind(self) -> Behind | None:
        """The derivatives along the tensors that pass the cut before the segment; None for the first segment."""
        before = self._segment.before
        if not before:
            return None
        sizes = self._sizes()
        ends = [0, *itertools.accumulate(sizes.values())]
        columns = dict(zip(sizes, map(slice, ends, ends[1:]), strict=True))
        first = before[0].gradient
        matrix = first.new_zeros(len(first), sum(place.size for place in before), ends[-1])
        start = 0
        for place in before:
            self._write_along_cut(place, matrix[:, start : start + place.size], columns)
            start += place.size
        return Behind(matrix, {column: at for column, at in columns.items() if isinstance(column, tuple)})

    def _sizes(self) -> dict[Column | Place | None, int]:
        """How many columns the derivatives along the cut before have, by what they are of; the later ones are last."""
        segment = self._segment
        sizes: dict[Column | Place | None, int] = {
            place if place.index is None else ("shift", place.index): place.size for place in segment.places
        }
        sizes |= {("input", call): self._uses[call].call.input[0].numel() for call in segment.inputs}
        sizes |= {("shift", place.index): place.size for place in segment.after if place.index is not None}
        if self._behind is not None:
            own = self._behind.matrix.shape[1]
            sizes |= {column: at.stop - at.start for column, at in self._behind.columns.items() if at.start >= own}
        return sizes

    def _write_along_cut(self, place: Place, matrix: Tensor, columns: Mapping[Any, slice]) -> None:
        """Write the derivatives (N, S p, Z) along a tensor that passes the cut before."""
        rows = self._all.get(place) or _joined(list(self._along(place)))
        jacobian, behind = rows.jacobian, self._behind
        for target in self._segment.places:
            at = columns[target if target.index is None else ("shift", target.index)]
            if target in rows.shifts:
                matrix[:, :, at] = rows.shifts[target].flatten(1, 2)
            else:
                matrix[:, :, at] = self._all[target].shifts[place].flatten(1, 2).mT
            if jacobian is not None:
                jacobian.add_product(self._through[target], matrix[:, :, at])
        for call, inputs in rows.inputs.items():
            matrix[:, :, columns["input", call]] = inputs.flatten(1, 2)
        if jacobian is None or behind is None:
            return
        own = behind.matrix.shape[1]
        for after in self._segment.after:
            if after.index is not None:
                known = behind.matrix[:, :, behind.columns["shift", after.index]]
                jacobian.add_product(known, matrix[:, :, columns["shift", after.index]])
        jacobian.add_product(behind.matrix[:, :, own:], matrix[:, :, matrix.shape[2] - behind.matrix.shape[2] + own :])


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
