"""Where a network's tape is cut, so that second derivatives pass through few tensors from one segment to the next.

What comes after a cut depends on what comes before it through the tensors that are alive there. Derivatives behind it
then need one direction for each entry of these tensors, and no longer one for each shift before it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.affine import Call
from methods.factoring.numerics import drawn
from methods.factoring.refusals import Refused, refusals
from methods.factoring.tape import Step, replay, used

# Costs in multiplications of a matrix product, seen on a CPU; they decide only how fast the result is.
ELEMENT = 300.0  # of one element of a step's result, for one direction
PASSES = 4.0  # of each multiplication of an affine map, for one direction
BEHIND = 100.0  # of one derivative behind a cut, which is written and read in memory
SEGMENT = 3e7  # of a segment, whose functions are called one by one


@dataclass(frozen=True)
class Cut:
    """A place between two steps, and the tensors that pass it."""

    place: int  # the number of steps before it
    tensors: tuple[Tensor, ...]  # each with the samples first
    calls: tuple[int | None, ...]  # for each, the call whose shifted outputs it is, if no step before the place uses it
    width: int  # entries of a sample

    @property
    def own(self) -> set[int]:
        """The calls whose shifts are shifts of its tensors."""
        return {call for call in self.calls if call is not None}


class Flow:
    """Which steps a tensor lives through, and what each step and each call adds to the cost."""

    def __init__(self, steps: Sequence[Step], calls: Sequence[Call], shifts: Sequence[Tensor], samples: int) -> None:
        self.steps, self.samples = steps, samples
        self.made: dict[int, int] = {}  # id of a tensor -> the step that makes it
        first, last = dict[int, int](), dict[int, int]()  # the first and the last step that uses it
        tensors: dict[int, Tensor] = {}
        for place, step in enumerate(steps):
            for tensor in used(step):
                if id(tensor) in self.made:
                    first.setdefault(id(tensor), place)
                    last[id(tensor)] = place
            for tensor in step.results:
                if tensor.requires_grad:
                    self.made.setdefault(id(tensor), place)
                    tensors[id(tensor)] = tensor
        self.shifted = {step.call: place for place, step in enumerate(steps) if step.call is not None}
        self.sizes = {call: shifts[call].numel() // samples for call in self.shifted}
        self.inputs = {call: self._input(calls[call]) for call in self.shifted}
        self._products = {
            call: 0 if calls[call].entries else shifts[call].shape[1] * calls[call].weight.numel()
            for call in self.shifted
        }
        self._by_entries = {call for call in self.shifted if calls[call].entries}
        self._first = first
        self._living = [(tensors[key], self.made[key], end) for key, end in last.items()]
        counts = Counter(shifts[call].shape[1] for call in self.shifted if not calls[call].entries)
        self._positions = max((count for count in counts if count > 1), key=lambda count: counts[count], default=1)
        mixing = self._mixing_steps() if self._positions > 1 else [False] * len(steps)
        self._mixing = [0, *itertools.accumulate(mixing)]  # how many steps before each mix positions
        work = [self._work(step) for step in steps]
        self._work_before = [0.0, *itertools.accumulate(work)]

    def _mixing_steps(self) -> list[bool]:
        """Whether each step moves other positions than those that it is moved at."""
        flags = [self._mixes(step) for step in self.steps]
        return torch.stack(flags).tolist()

    def _mixes(self, step: Step) -> Tensor:
        """Whether () a step mixes positions: what it gives at odd ones moves with what it takes at even ones."""
        like = self.steps[-1].results[0]
        moving = [tensor for tensor in used(step) if id(tensor) in self.made]
        shape = (self.samples, self._positions)
        unclear = like.new_ones((), dtype=torch.bool)
        if any(tensor.shape[:2] != shape for tensor in (*moving, *step.results)):
            return unclear
        if step.call is not None or not moving:
            return ~unclear
        even = torch.arange(self._positions, device=like.device) % 2 == 0

        def results(*values: Tensor) -> list[Tensor]:
            found = dict(zip(map(id, moving), values, strict=True))
            replay([step], found, [], {})
            return [found[id(result)] for result in step.results]

        values = tuple(tensor.detach() for tensor in moving)
        probes = tuple(drawn(value) * _along_positions(even, value) for value in values)
        try:
            with torch.no_grad(), refusals():
                _, tangents = torch.func.jvp(results, values, probes)  # type: ignore[misc]  two values without has_aux
        except Refused:
            return unclear
        return torch.stack([(x * ~_along_positions(even, x)).any() for x in tangents]).any()

    def _input(self, call: Call) -> int:
        """Entries of a sample of a call's input, if it varies."""
        varies = not call.entries and id(call.input) in self.made
        return call.input.numel() // self.samples if varies else 0

    def _work(self, step: Step) -> float:
        elements = sum(result.numel() for result in step.results) / self.samples
        products = 0 if step.call is None else self._products[step.call]
        return ELEMENT * elements + PASSES * products

    def _ends(self, before: Cut | None, after: Cut | None) -> tuple[int, int]:
        """The first step of a segment between two cuts, and the step after its last."""
        return (before.place if before else 0), (after.place if after else len(self.steps))

    def fresh(self, before: Cut | None, after: Cut | None) -> int:
        """Entries of a sample of the tensors that a segment makes and passes on; the others only pass through."""
        if after is None:
            return 0
        start, _ = self._ends(before, after)
        made = [tensor for tensor in after.tensors if self.made[id(tensor)] >= start]
        return sum(tensor.numel() for tensor in made) // self.samples

    def positions(self, before: Cut | None, after: Cut | None) -> int:
        """The positions of a sample, if a segment between two cuts treats them separately; else 1."""
        if after is None:
            return 1
        start, stop = self._ends(before, after)
        return self._positions if self._mixing[stop] == self._mixing[start] else 1

    def has_positions(self, cut: Cut) -> bool:
        """Whether all tensors that pass have the positions after the samples."""
        return all(tensor.shape[:2] == (self.samples, self._positions) for tensor in cut.tensors)

    def cut(self, place: int) -> Cut | None:
        """The cut before a step, or None where a tensor that passes has not the samples first."""
        living = [tensor for tensor, made, end in self._living if made < place <= end]
        if not living or not all(self._has_samples(tensor) for tensor in living):
            return None
        owners = [self._owner(tensor, place) for tensor in living]
        return Cut(place, tuple(living), tuple(owners), sum(tensor.numel() for tensor in living) // self.samples)

    def _has_samples(self, tensor: Tensor) -> bool:
        like = self.steps[-1].results[0]
        return tensor.dtype == like.dtype and tensor.shape[:1] == (self.samples,)

    def _owner(self, tensor: Tensor, place: int) -> int | None:
        step = self.steps[self.made[id(tensor)]]
        unused = self._first[id(tensor)] >= place
        return step.call if step.call is not None and unused and step.call not in self._by_entries else None

    def directions(self, before: Cut | None, after: Cut | None) -> tuple[int, int]:
        """How many directions of a sample a segment has, and how many columns the calls in it."""
        start, stop = self._ends(before, after)
        deferred = after.own if after else set()
        inside = [call for call, place in self.shifted.items() if start <= place < stop]
        own = sum(self.sizes[call] for call in inside if call not in deferred)
        return (before.width if before else 0) + own, own + sum(self.inputs[call] for call in inside)

    def columns(self, cut: Cut | None) -> int:
        """The derivatives of a sample behind a cut: those along its tensors, and of the calls after it."""
        if cut is None:
            return 0
        after = [call for call, place in self.shifted.items() if place >= cut.place]
        return cut.width + sum(self.sizes[call] + self.inputs[call] for call in after)

    @property
    def widest(self) -> int:
        """The most derivatives of a sample that a call adds."""
        return max(self.sizes[call] + self.inputs[call] for call in self.shifted)

    def work(self, before: Cut | None, after: Cut | None) -> float:
        """The cost of one direction of a sample in a segment."""
        start, stop = self._ends(before, after)
        return self._work_before[stop] - self._work_before[start]


def _along_positions(chosen: Tensor, like: Tensor) -> Tensor:
    """Which positions (T,) are chosen, in the shape of a tensor (N, T, ...)."""
    return chosen.view(-1, *[1] * (like.dim() - 2))


def choose(flow: Flow, memory: float) -> list[Cut]:
    """The cuts with which all derivatives cost least, within `memory` bytes for those behind cuts."""
    found = _candidates(flow)
    ends: list[Cut | None] = [None, *found, None]
    best: list[tuple[float, int]] = [(0.0, 0)]  # the cost up to each end, and the end before it
    for stop in range(1, len(ends)):
        costs = [(best[start][0] + _cost(flow, ends[start], ends[stop], memory), start) for start in range(stop)]
        best.append(min(costs))
    chosen = []
    place = best[-1][1]
    while place:
        chosen.append(found[place - 1])
        place = best[place][1]
    return chosen[::-1]


def _candidates(flow: Flow) -> list[Cut]:
    """Cuts that are narrower than those beside them, or whose tensors are shifted outputs.

    Of several in a row that are equally wide, the one whose tensors have positions.
    """
    cuts = [flow.cut(place) for place in range(1, len(flow.steps))]
    rows = [list(row) for _, row in itertools.groupby(cuts, key=lambda cut: cut.width if cut else math.inf)]
    widths = [row[0].width if row[0] else math.inf for row in rows]
    before, after = [math.inf, *widths[:-1]], [*widths[1:], math.inf]
    chosen: dict[int, Cut] = {}
    for row, width, earlier, later in zip(rows, widths, before, after, strict=True):
        found = [cut for cut in row if cut is not None]
        kept = [cut for cut in found if cut.own]
        if not kept and found and width < min(earlier, later):
            kept = [max(found, key=flow.has_positions)]
        chosen |= {cut.place: cut for cut in kept}
    return list(chosen.values())


def _cost(flow: Flow, before: Cut | None, after: Cut | None, memory: float) -> float:
    """The cost of a segment's own derivatives, and of their products with those behind the cut after it."""
    directions, added = flow.directions(before, after)
    behind, wide, apart = flow.columns(after), (after.width if after else 0), flow.positions(before, after)
    size = flow.samples * flow.steps[-1].results[0].element_size()
    narrow = before.width if before else 0
    kept = (directions if after else narrow) * (directions + wide / apart) + (narrow + wide) * 2 * flow.widest
    if (before or after) and size * kept > memory:
        return float("inf")
    chained = flow.fresh(before, after) * (behind + added)
    each = directions / apart * (flow.work(before, after) + chained) + BEHIND * narrow * flow.columns(before)
    return SEGMENT + flow.samples * each
