"""Segments of a network's tape, and their own derivatives along unit shifts; symbols as in `methods.factored`.

A segment takes the tensors x that pass the cut before it to those, y, that pass the cut after it. What is
differentiated is <d loss / dy, y>, whose second derivatives are those of the loss if what follows were linear. The last
segment ends at the loss itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.factoring.affine import Call
from methods.factoring.numerics import drawn, every, norm
from methods.factoring.refusals import refusals
from methods.factoring.shifts import all_close


@dataclass(frozen=True, eq=False)
class Place:
    """Where the network is shifted: the outputs of a call, or a tensor that passes a cut."""

    gradient: Tensor  # of the loss in the shift (N, S, p)
    index: int | None = None  # of the call
    call: Call | None = None
    tensor: Tensor | None = None  # that passes the cut, with the samples first
    varies: bool = False  # whether the call's features depend on earlier shifts

    @property
    def size(self) -> int:
        """The entries of a sample's shift."""
        return self.gradient[0].numel()

    @property
    def value(self) -> Tensor:
        """The tensor's entries (N, S, p)."""
        assert self.tensor is not None
        return self.entries(self.tensor.detach())

    @property
    def by_entries(self) -> bool:
        """Whether the shift is one of a parameter's entries."""
        return self.call is not None and self.call.entries

    def entries(self, value: Tensor) -> Tensor:
        """The entries (N, S, p) of a value of the tensor that passes the cut, in the order of the shift."""
        return (value if self.call is None else self.call.outputs(value)).reshape(self.gradient.shape)

    def shifted(self, shift: Tensor | None) -> Tensor:
        """The tensor that passes the cut, with a shift (N, S, p)."""
        assert self.tensor is not None
        value = self.tensor.detach()
        if shift is None:
            return value
        change = shift.reshape(value.shape) if self.call is None else self.call.change(shift, value, value)
        return value + change


class Derivatives(NamedTuple):
    """Derivatives along unit shifts of one place, in the order (s, i) of its entries; or along those that shift all
    positions at once, in the order i."""

    gradients: list[Tensor]  # M of the targets (U, N, S', p')
    inputs: list[Tensor]  # of the calls (U, ...)
    after: list[Tensor]  # J of the tensors that pass the cut after the segment (U, N, S', p')


Evaluate = Callable[[Mapping[Place, Tensor]], tuple[Tensor, list[Tensor], list[Tensor]]]


@dataclass(eq=False)
class Segment:
    """A stretch of the network between two cuts."""

    evaluate: Evaluate  # shifts of places -> the loss or <d loss / dy, y> (), inputs of the calls, y (N, S, p)
    before: list[Place]  # x; empty for the first segment
    inside: list[Place]  # shifts within it that no tensor y is
    after: list[Place]  # y; empty for the last segment, which ends at the loss
    inputs: list[int]  # the calls within whose inputs vary
    numbers: int  # the elements of all tensors that it computes
    loss: Tensor  # () of the whole network
    positions: int = 1  # T, if it treats the positions of each sample separately

    idle: frozenset[Place] = frozenset()  # the tensors x that it does not use, but only passes on

    @property
    def widths(self) -> list[int]:
        """The entries of a sample of each tensor that passes the cut before it."""
        return [place.size for place in self.before]

    @property
    def calls(self) -> list[Place]:
        """The places in it, and those that pass the cut after it."""
        return [*self.inside, *self.after]

    @property
    def places(self) -> list[Place]:
        """All places that it is shifted at."""
        return [*self.before, *self.inside]

    def apart(self, place: Place) -> bool:
        """Whether a shift of all positions at once gives what the shift of each position does."""
        return self.positions > 1 and not place.by_entries

    def at_once(self, place: Place, memory: float) -> int:
        """How many outputs of a place can be shifted at once, within so many bytes; at least one."""
        positions = 1 if self.apart(place) else place.gradient.shape[1]
        each = place.gradient.element_size() * positions * 8 * self.numbers  # 8: intermediate results
        return max(int(memory / each), 1)

    def separates_positions(self, positions: int) -> Tensor:
        """Whether () shifts at every second position move nothing at the others."""
        even = (torch.arange(positions, device=self.loss.device) % 2 == 0)[:, None]
        moved = [place for place in self.places if not (place.by_entries or place in self.idle)]
        shifts = {place: torch.where(even, drawn(place.gradient), 0) for place in moved}
        with torch.no_grad(), refusals(), sdpa_kernel(SDPBackend.MATH):
            _, derivatives = self.derivatives(shifts, moved)
        found = [*derivatives.gradients, *derivatives.after]
        found += [x.reshape(len(moved[0].gradient), positions, -1) for x in derivatives.inputs]
        return every((torch.where(even, 0, x) == 0).all() for x in found)

    def derivatives(self, shifts: Mapping[Place, Tensor], targets: Sequence[Place]) -> tuple[Derivatives, Derivatives]:
        """Gradients, inputs and tensors y without shifts, and their derivatives along shifts of some places.

        The last of the first ones' inputs is the loss, or what stands for it.
        """
        places = [*shifts, *(target for target in targets if target not in shifts)]
        zeros = tuple(torch.zeros_like(place.gradient) for place in places)

        def value(*at: Tensor) -> tuple[Tensor, tuple[list[Tensor], list[Tensor]]]:
            loss, inputs, after = self.evaluate(dict(zip(places, at, strict=True)))
            return loss, ([*inputs, loss], after)

        def gradients(*moved: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
            at = (*moved, *zeros[len(moved) :])
            found, (inputs, after) = torch.func.grad(value, argnums=tuple(range(len(at))), has_aux=True)(*at)
            by_place = dict(zip(places, found, strict=True))
            return [by_place[target] for target in targets], inputs, after

        found, tangents = torch.func.jvp(gradients, zeros[: len(shifts)], tuple(shifts.values()))  # type: ignore[misc]  two values without has_aux
        return Derivatives(*found), Derivatives(tangents[0], tangents[1][:-1], tangents[2])


class Directions:
    """Derivatives along the shifts of one place of a segment.

    It also finds samples that depend on each other. One more shift is random and differs from sample to sample (and
    from position to position, where these are treated separately); the unit shifts must explain what it changes.
    """

    def __init__(self, segment: Segment, place: Place, targets: Sequence[Place]) -> None:
        self._segment, self._place, self._targets = segment, place, list(targets)
        self._random = drawn(place.gradient)
        self._values: list[Tensor] = []  # the loss (), the distance () of values from those of the tape, their size ()
        self._whole: list[Tensor] = []  # what the random shift changes
        self._sizes: list[Tensor] = []  # the inputs and what passes the cut after the segment, without a shift
        self._unexplained: list[Tensor] = []  # the part of it that no unit shift so far explains

    def along(self, outputs: slice) -> Derivatives:
        """Derivatives along the unit shifts of some outputs. Raises Refused where torch has no rule."""
        apart = self._segment.apart(self._place)
        units = _units(self._random, outputs, apart)
        shifts = units if self._whole else torch.cat([self._random[None], units])
        with torch.no_grad(), refusals(), sdpa_kernel(SDPBackend.MATH):
            values, found = torch.func.vmap(self._derivatives)(shifts)
        if not self._whole:
            self._values = self._compared(Derivatives(*([x[0] for x in part] for part in values)))
            self._whole = [x[0] for part in found for x in part]
            self._sizes = [x[0] for x in (*values.inputs[:-1], *values.after)]
            self._unexplained = [x.clone() for x in self._whole]
            found = Derivatives(*([x[1:] for x in part] for part in found))
        weights = self._random[:, :, outputs]
        for unexplained, derivative in zip(self._unexplained, itertools.chain(*found), strict=True):
            if apart:
                by_position = derivative.reshape(len(units), *weights.shape[:2], -1)
                explained = torch.einsum("nsu,unsv->nsv", weights, by_position)
            else:
                by_sample = derivative.reshape(len(units), len(weights), -1)
                explained = torch.einsum("nu,unv->nv", weights.flatten(1), by_sample)
            unexplained -= explained.reshape(unexplained.shape)
        return found

    def found(self) -> Tensor:
        """What `shifts.check` reads (4,), once all outputs have been shifted."""
        count = len(self._targets)
        of_gradients = self._unexplained[:count], [*self._whole[:count], *(x.gradient for x in self._targets)]
        of_values = self._unexplained[count:], [*self._whole[count:], *self._sizes]
        separate = every(all_close(*pair) for pair in (of_gradients, of_values) if pair[0])
        return torch.stack([number.double() for number in (*self._values, separate)])

    def _derivatives(self, shift: Tensor) -> tuple[Derivatives, Derivatives]:
        return self._segment.derivatives({self._place: shift}, self._targets)

    def _compared(self, values: Derivatives) -> list[Tensor]:
        segment = self._segment
        loss = segment.loss if segment.after else values.inputs[-1]
        known = [target.gradient for target in self._targets] + [place.value for place in segment.after]
        distances = [norm(x - y) for x, y in zip([*values.gradients, *values.after], known, strict=True)]
        return [loss, torch.stack(distances).sum(), torch.stack(list(map(norm, known))).sum()]


def _units(like: Tensor, outputs: slice, apart: bool) -> Tensor:
    """Unit shifts of some outputs i: at all positions at once (i, N, S, p), or at each, (S i, N, S, p)."""
    samples, positions, width = like.shape
    output = torch.arange(outputs.start, outputs.stop, device=like.device)
    if apart:
        units = like.new_zeros(len(output), samples, positions, width)
        units[output - outputs.start, :, :, output] = 1
        return units
    units = like.new_zeros(positions, len(output), samples, positions, width)
    position = torch.arange(positions, device=like.device)[:, None]
    units[position, output - outputs.start, :, position, output] = 1
    return units.flatten(0, 1)
