"""One segment's own derivatives, and their products with those behind the cut after it; formulae as in `chain`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.jacobian import Jacobian, Term
from methods.factoring.numerics import slices
from methods.factoring.pairs import Pair, fitting, pair_of, pairs_behind_cut
from methods.factoring.scratch import Scratch
from methods.factoring.segments import Directions, Place, Segment
from methods.factoring.uses import Use

Column = tuple[str, int]  # "shift" or "input" of a call


@dataclass(frozen=True)
class Behind:
    """Derivatives along the tensors that pass a cut, of gradients in shifts behind it and of the inputs of calls."""

    matrix: Tensor  # (N, Y, Z)
    columns: dict[Column, slice]
    turn: bool  # in which of two places in memory that before this cut is written

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
        if outputs == self.outputs:
            return self
        return Rows(
            outputs,
            {target: x[:, :, outputs] for target, x in self.shifts.items()},
            {call: x[:, :, outputs] for call, x in self.inputs.items()},
            None if self.jacobian is None else self.jacobian.some(outputs),
        )


class Stage:
    """One segment, and its own derivatives, which stay until they are released."""

    def __init__(self, segment: Segment, uses: Sequence[Use], memory: float, scratch: Scratch) -> None:
        self.segment, self._uses, self._memory, self._scratch = segment, uses, memory, scratch
        self.directions: dict[Place, Directions] = {}
        # Where positions are treated apart, derivatives along entries come after all others, and give those too.
        self._order = sorted(segment.places, key=self._is_last)
        self._rows: dict[Place, Rows] = {}
        self._through: dict[Place, Tensor] = {}  # M_yy (dy/de)^T (N, Y, S p)

    def release(self) -> None:
        """Forget the derivatives."""
        self._rows, self._through = {}, {}

    def _is_last(self, place: Place) -> bool:
        return self.segment.positions > 1 and place.by_entries

    def _targets(self, place: Place) -> list[Place]:
        """The places whose second derivatives with a place come from the shifts of that place."""
        at = 0 if place.tensor is not None else self._order.index(place)
        if self._is_last(place):
            found = [target for target in self._order if not self._is_last(target)] + self._order[at:]
        else:
            found = [target for target in self._order[at:] if not self._is_last(target)]
        return [target for target in found if target not in self.segment.idle]

    def _along(self, place: Place) -> Iterator[Rows]:
        """The segment's own derivatives along the shifts of a place, some outputs at a time."""
        segment, targets, apart = self.segment, self._targets(place), self.segment.apart(place)
        like = place.gradient
        if place in segment.idle:
            yield Rows(slice(0, like.shape[2]), {}, {}, self._jacobian(place, None))
            return
        directions = self.directions[place] = Directions(segment, place, targets)
        at_once = min(segment.at_once(place, self._memory), fitting(place, self._uses, self._memory))
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

    def _all(self, place: Place) -> Rows:
        """The segment's own derivatives along all shifts of a place."""
        if place not in self._rows:
            self._rows[place] = _joined(list(self._along(place)))
        return self._rows[place]

    def _jacobian(self, place: Place, found: Sequence[Tensor] | None) -> Jacobian:
        """The Jacobian along the shifts of some outputs of a place, from derivatives as `_by_sample` takes them."""
        terms, start, apart = [], 0, self.segment.apart(place)
        passing = {id(before.tensor) for before in self.segment.before}
        for at, tensor in enumerate(self.segment.after):
            of = slice(start, start + tensor.size)
            start = of.stop
            if tensor.tensor is place.tensor:
                terms.append(Term(of, None, apart))
            elif found is not None and id(tensor.tensor) not in passing:
                terms.append(Term(of, _blocks(found[at], place.gradient, apart), apart))
        return Jacobian(terms)

    def pairs(self, own: Tensor | None) -> Iterator[Pair]:
        """The pairs of the calls in the segment.

        `own` (N, Y, Y) is the curvature of the loss in what passes the cut after it; None after the last segment.
        """
        if own is not None:
            for place in self._order:
                product = own.new_empty(len(own), place.size, own.shape[1])
                self._put_product(self._all(place), own, product, add=False)
                self._through[place] = product.mT
        for place in self.segment.inside:
            if own is None:
                for rows in self._along(place):
                    yield from self._pairs_of(place, rows)
            elif self._is_last(place):
                yield from self._pairs_of(place, self._all(place))
            else:
                for outputs in slices(0, place.gradient.shape[2], fitting(place, self._uses, self._memory)):
                    yield from self._pairs_of(place, self._all(place).some(outputs))

    def _put_product(self, rows: Rows, matrix: Tensor, result: Tensor, add: bool) -> None:
        if rows.jacobian is not None:
            rows.jacobian.put_product(matrix, result, self._scratch, add)

    def _pairs_of(self, place: Place, rows: Rows) -> Iterator[Pair]:
        """The pairs that the rows along shifts of a call give."""
        assert place.index is not None
        for target, own in rows.shifts.items():
            if target.tensor is not None or target.index is None:
                continue
            curvature = own
            if rows.jacobian is not None:
                curvature = own.flatten(1, 2).clone()
                rows.jacobian.put_product(self._through[target], curvature, self._scratch, add=True)
                curvature = curvature.view_as(own)
            if place.index <= target.index:
                inputs = None if target is place else rows.inputs.get(target.index)
                yield pair_of(self._uses, place, rows.outputs, target.index, curvature, inputs)
            else:  # of entries and an earlier call
                mirrored = curvature.flatten(1, 2).mT.unflatten(1, target.gradient.shape[1:])
                whole = slice(0, target.gradient.shape[2])
                yield pair_of(self._uses, target, whole, place.index, mirrored, None)

    def pairs_behind(self, behind: Behind) -> Iterator[Pair]:
        """The pairs of the calls in the segment and those behind the cut after it."""
        for place in self.segment.inside:
            for outputs in slices(0, place.gradient.shape[2], fitting(place, self._uses, self._memory)):
                rows, known = self._all(place).some(outputs), behind.matrix
                positions, count = place.gradient.shape[1], outputs.stop - outputs.start
                product = self._scratch.empty("pairs", known, len(known), positions * count, known.shape[2])
                self._put_product(rows, behind.matrix, product, add=False)
                shifts, inputs = behind.split(product.unflatten(1, (positions, count)))
                yield from pairs_behind_cut(self._uses, place, outputs, shifts, inputs | rows.inputs)

    def back(self, behind: Behind) -> Behind:
        """The same derivatives along the tensors that pass the cut before the segment."""
        segment, known = self.segment, behind.matrix
        matrix = self._scratch.empty(f"cut {int(behind.turn)}", known, len(known), sum(segment.widths), known.shape[2])
        for place, along in zip(segment.before, matrix.split(segment.widths, dim=1), strict=True):
            rows = self._all(place)
            self._put_product(rows, known, along, add=False)
            for call, inputs in rows.inputs.items():
                if ("input", call) in behind.columns:
                    along[:, :, behind.columns["input", call]] = inputs.flatten(1, 2)
        return Behind(matrix, behind.columns, not behind.turn)

    def along_cut(self) -> tuple[Tensor, Behind]:
        """The curvature (N, X, X) of the loss in what passes the cut before the segment, and the derivatives along it.

        They are of the calls in the segment, and of those whose outputs pass the cut.
        """
        segment = self.segment
        at = dict(zip(segment.before, _slices(segment.widths), strict=True))
        first = segment.before[0].gradient
        own = first.new_zeros(len(first), sum(segment.widths), sum(segment.widths))
        columns = self._columns()
        matrix = self._scratch.empty(
            "cut 1", first, len(first), own.shape[1], max((at.stop for at in columns.values()), default=0)
        ).zero_()
        for place in segment.before:
            rows = self._all(place)
            for target in self._order:
                if target in at:
                    found = own[:, at[place], at[target]]
                else:
                    assert target.index is not None
                    found = matrix[:, at[place], columns["shift", target.index]]
                if target in rows.shifts:
                    found.copy_(rows.shifts[target].flatten(1, 2))
                elif place in self._all(target).shifts:
                    found.copy_(self._all(target).shifts[place].flatten(1, 2).mT)
                if self._through:
                    self._put_product(rows, self._through[target], found, add=True)
                if target in at and target.index is not None:
                    matrix[:, at[place], columns["shift", target.index]] = found
            for call, inputs in rows.inputs.items():
                if ("input", call) in columns:
                    matrix[:, at[place], columns["input", call]] = inputs.flatten(1, 2)
        return own, Behind(matrix, columns, False)

    def _columns(self) -> dict[Column, slice]:
        """The columns of derivatives of the calls whose shifts are in the segment or pass the cut before it."""
        places = self.segment.places
        sizes: dict[Column, int] = {("shift", place.index): place.size for place in places if place.index is not None}
        for place in places:
            if place.index is not None and place.call is not None and place.varies:
                sizes["input", place.index] = place.call.input.numel() // len(place.gradient)
        return dict(zip(sizes, _slices(sizes.values()), strict=True))


def _slices(sizes: Iterable[int]) -> list[slice]:
    """Consecutive slices of these sizes."""
    ends = [0, *itertools.accumulate(sizes)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


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


def _blocks(derivatives: Tensor, like: Tensor, apart: bool) -> Tensor:
    """Derivatives as `_by_sample` takes them; where positions are apart, of the entries at the position s alone."""
    if not apart:
        return _by_sample(derivatives, like, False)
    return derivatives.reshape(len(derivatives), *like.shape[:2], -1).permute(1, 2, 0, 3)


def _by_sample(derivatives: Tensor, like: Tensor, apart: bool) -> Tensor:
    """Derivatives along the shifts of some outputs i of a place like (N, S, p), by sample: (N, S, i, entries).

    They come as (S i, N, ...); or as (i, N, S, ...) from shifts of all positions at once, for positions treated apart.
    """
    samples, positions, _ = like.shape
    if not apart:
        return derivatives.reshape(positions, -1, samples, derivatives[0].numel() // samples).permute(2, 0, 1, 3)
    blocks = derivatives.reshape(len(derivatives), samples, positions, -1)  # (i, N, S, q)
    result = blocks.new_zeros(samples, positions, len(blocks), positions, blocks.shape[3])
    result.diagonal(dim1=1, dim2=3).copy_(blocks.permute(1, 0, 3, 2))
    return result.flatten(3)
