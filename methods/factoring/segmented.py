"""A network as segments of its tape, or as a single one that runs the network itself where the tape cannot be run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.factoring.affine import Call
from methods.factoring.cuts import Cut, Flow, choose
from methods.factoring.network import Network
from methods.factoring.numerics import close
from methods.factoring.refusals import refusals
from methods.factoring.segments import Place, Segment
from methods.factoring.tape import Step, Tape, replay, used
from methods.factoring.uses import Use, uses_of_calls


class Segmented(NamedTuple):
    """The calls of affine maps, and the segments of the network in their order."""

    uses: list[Use]
    segments: list[Segment]


def segmented(network: Network, names: set[str], memory: float) -> Segmented:
    """The calls of affine maps of the named parameters, and segments with derivatives of about `memory` bytes.

    Raises Refused where torch cannot differentiate the traced loss.
    """
    tape = Tape()
    with refusals():
        loss, calls, shifts = network.traced(names, tape)
        if not shifts:
            return Segmented([], [])
        steps = _repeatable(tape, loss, calls)
        cuts = choose(Flow(steps, calls, shifts, network.samples), memory) if steps else []
        gradients = torch.autograd.grad(loss, shifts, materialize_grads=True)
    uses = uses_of_calls(network, names, calls, gradients)
    reached = {id(result) for step in steps or () for result in step.results if result.requires_grad}
    inside = [
        Place(gradient, index, call, varies=_may_vary(call) and (not steps or id(call.input) in reached))
        for index, (call, gradient) in enumerate(zip(calls, gradients, strict=True))
    ]
    if not steps:
        return Segmented(uses, [_whole(network, names, loss.detach(), inside)])
    ends = [0, *(cut.place for cut in cuts), len(steps)]
    pieces = [steps[start:stop] for start, stop in itertools.pairwise(ends)]
    slopes = _slopes(loss, cuts, pieces[1:], calls)
    places = [_passing(cut, inside, slope) for cut, slope in zip(cuts, slopes, strict=True)]
    stretches = zip(pieces, [[], *places], [*places, []], strict=True)
    segments = [_piece(loss, piece, calls, before, inside, after) for piece, before, after in stretches]
    _find_positions(segments)
    return Segmented(uses, segments)


def _find_positions(segments: Sequence[Segment]) -> None:
    """Set the positions of the segments that treat those of each sample separately."""
    found = [(segment, count) for segment in segments if (count := _common_positions(segment)) > 1]
    if not found:
        return
    flags = torch.stack([segment.separates_positions(count) for segment, count in found]).tolist()
    for (segment, count), separate in zip(found, flags, strict=True):
        segment.positions = count if separate else 1


def _common_positions(segment: Segment) -> int:
    """How many positions all places of a segment have in common; 1 if these are not the same."""
    places = [place for place in (*segment.places, *segment.after) if not place.by_entries]
    counts = {place.gradient.shape[1] for place in places}
    shifted = any(not place.by_entries for place in segment.places)
    return counts.pop() if shifted and segment.after and len(counts) == 1 else 1


def _may_vary(call: Call) -> bool:
    return not call.entries and call.input.is_floating_point()


def _repeatable(tape: Tape, loss: Tensor, calls: Sequence[Call]) -> list[Step] | None:
    """The steps that shifts reach, if running them again gives the same loss."""
    steps = tape.active(loss)
    if not steps:
        return None
    values: dict[int, Tensor] = {}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        replay(steps, values, calls, {})
    return steps if close(values[id(loss)] - loss.detach(), loss.detach()) else None


def _slopes(
    loss: Tensor, cuts: Sequence[Cut], pieces: Sequence[Sequence[Step]], calls: Sequence[Call]
) -> list[Sequence[Tensor]]:
    """The gradients of the loss in the tensors that pass each cut, where those that pass the same cut stay fixed.

    The pieces are those after each cut.
    """
    slopes: list[Sequence[Tensor]] = []
    ends, weights = [loss], [torch.ones_like(loss)]
    for cut, piece in zip(reversed(cuts), reversed(pieces), strict=True):
        leaves = [tensor.detach().requires_grad_() for tensor in cut.tensors]
        values = dict(zip(map(id, cut.tensors), leaves, strict=True))
        with sdpa_kernel(SDPBackend.MATH):
            replay(piece, values, calls, {})
        reached = [values[id(tensor)] for tensor in ends]
        slopes.append(torch.autograd.grad(reached, leaves, weights, materialize_grads=True))
        ends, weights = list(cut.tensors), list(slopes[-1])
    return slopes[::-1]


def _passing(cut: Cut, inside: Sequence[Place], slopes: Sequence[Tensor]) -> list[Place]:
    """The tensors that pass a cut; the second dimension of one, if it has three, is taken to be positions."""
    places = []
    for tensor, call, slope in zip(cut.tensors, cut.calls, slopes, strict=True):
        if call is None:
            positions = tensor.shape[1] if tensor.dim() > 2 else 1
            places.append(Place(slope.reshape(len(tensor), positions, -1), tensor=tensor))
        else:
            places.append(replace(inside[call], tensor=tensor))
    return places


def _piece(
    loss: Tensor,
    steps: Sequence[Step],
    calls: Sequence[Call],
    before: list[Place],
    inside: Sequence[Place],
    after: list[Place],
) -> Segment:
    """A segment of the tape."""
    shifted = [step.call for step in steps if step.call is not None]
    deferred = {place.index for place in after}
    varying = [call for call in shifted if inside[call].varies]

    def evaluate(shifts: Mapping[Place, Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        values = {id(place.tensor): place.shifted(shifts.get(place)) for place in before}
        within = {place.index: shift for place, shift in shifts.items() if place.index is not None}
        inputs = replay(steps, values, calls, within)
        ends = [place.entries(values[id(place.tensor)]) for place in after]
        linear = [(place.gradient * end).sum() for place, end in zip(after, ends, strict=True)]
        value = torch.stack(linear).sum() if after else values[id(loss)]
        return value, [inputs[call] for call in varying], ends

    numbers = sum(result.numel() for step in steps for result in step.results)
    places = [inside[call] for call in shifted if call not in deferred]
    taken = {id(tensor) for step in steps for tensor in used(step)}
    idle = frozenset(place for place in before if id(place.tensor) not in taken)
    return Segment(evaluate, before, places, after, varying, numbers, loss.detach(), idle=idle)


def _whole(network: Network, names: set[str], loss: Tensor, inside: list[Place]) -> Segment:
    """The whole network as one segment."""
    varying = [call for call, place in enumerate(inside) if place.varies]

    def evaluate(shifts: Mapping[Place, Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        within = {place.index: shift for place, shift in shifts.items() if place.index is not None}
        value, calls = network.loss(names, lambda call, z: within.get(call, torch.zeros_like(z)))
        return value, [calls[call].input for call in varying], []

    numbers = sum(place.gradient.numel() + place.call.input.numel() for place in inside if place.call is not None)
    return Segment(evaluate, [], inside, [], varying, numbers, loss)
