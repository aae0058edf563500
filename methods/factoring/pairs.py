"""Pairs of calls with the derivatives between them, which `methods.factoring.products` contracts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.segments import Place
from methods.factoring.uses import Use


class Pair(NamedTuple):
    """The derivatives between some outputs of one call and a call that is the same or later."""

    use: Use
    other: Use
    first: int  # of these outputs of `use`
    curvature: Tensor  # M (i, S, N, T, p), of the gradients of `other`
    jacobian: Tensor | None  # J (i, S, N, T, q), of the features of `other`; None where these do not vary


def pairs_behind_cut(
    uses: Sequence[Use], place: Place, outputs: slice, shifts: Mapping[int, Tensor], inputs: Mapping[int, Tensor]
) -> Iterator[Pair]:
    """The pairs of some outputs i of a call, from derivatives (N, S, i, ...) of shifts and inputs of calls."""
    assert place.index is not None
    for call, curvature in shifts.items():
        if call >= place.index:
            moved = None if call == place.index else inputs.get(call)
            yield pair_of(uses, place, outputs, call, curvature, moved)


def pair_of(
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


def fitting(place: Place, uses: Sequence[Use], memory: float) -> int:
    """How many outputs of a place have derivatives that fit the memory; at least one."""
    numbers = sum(use.gradient[0].numel() + use.parts[0].features[0].numel() for use in uses)
    each = 4 * place.gradient.element_size() * place.gradient.shape[0] * place.gradient.shape[1] * numbers
    return max(int(memory / each), 1)
