"""The calls of affine maps that matrix products are about, and their parameters' entries in theta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.affine import Call
from methods.factoring.network import Network
from methods.factoring.refusals import refusals


@dataclass(frozen=True)
class Part:
    """One parameter of a call: the weight (p, q), or the bias as a weight (p, 1) of a constant feature."""

    start: int  # index of its first entry in theta
    features: Tensor  # a (N, S, q) that it multiplies; ones for a bias
    varies: bool  # whether the features depend on the shifts of earlier calls
    transposed: bool  # whether the parameter is stored as (q, p)


@dataclass(frozen=True)
class Use:
    """One call of an affine map whose parameters are computed by matrix products."""

    names: frozenset[str]  # of its parameters
    parts: tuple[Part, ...]
    gradient: Tensor  # g (N, S, p), of the loss in the outputs
    tied: bool  # whether another call has one of the same parameters
    by_entries: bool  # whether the outputs are a parameter's entries, for each sample (`affine.of_entries`)

    def outputs(self, vector: Tensor) -> Tensor:
        """The change (N, S, p) of the outputs when the parameters change by their entries of `vector` (P,)."""
        changes = (part.features @ self.entries(part, vector).T for part in self.parts)
        return sum(changes, torch.zeros_like(self.gradient))

    def add_transposed(self, cotangents: Tensor, result: Tensor) -> None:
        """Add to `result` (P,) the transpose of `outputs`, applied to cotangents (N, S, p) of the outputs."""
        for part in self.parts:
            entries = self.entries(part, result)
            entries += cotangents.flatten(0, 1).T @ part.features.flatten(0, 1)

    def entries(self, part: Part, vector: Tensor) -> Tensor:
        """The entries of `vector` (P,) that belong to a part, as a view (p, q)."""
        outputs, width = self.gradient.shape[2], part.features.shape[2]
        entries = vector[part.start : part.start + outputs * width]
        return entries.view(width, outputs).T if part.transposed else entries.view(outputs, width)


def uses_of(network: Network, names: set[str]) -> list[Use]:
    """Every call of an affine map of the named parameters, in the order of the calls.

    Raises Refused where torch cannot differentiate the traced loss.
    """
    with refusals():
        loss, calls, shifts = network.traced(names)
        gradients = torch.autograd.grad(loss, shifts, materialize_grads=True) if shifts else ()
    return uses_of_calls(network, names, calls, gradients)


def uses_of_calls(network: Network, names: set[str], calls: Sequence[Call], gradients: Sequence[Tensor]) -> list[Use]:
    """The calls of affine maps of the named parameters, with the gradients (N, S, p) of the loss in their shifts."""
    owners = [network.owners(call) & names for call in calls]
    uses = []
    for call, gradient, own in zip(calls, gradients, owners, strict=True):
        tied = sum(bool(own & others) for others in owners) > 1
        uses.append(Use(frozenset(own), tuple(_parts(network, call, own)), gradient, tied, call.entries))
    return uses


def _parts(network: Network, call: Call, names: set[str]) -> Iterator[Part]:
    """The weight and the bias of a call, as far as they are named."""
    features = call.features(call.input.detach())
    constant = features.new_ones(*features.shape[:2], 1)
    weight, bias = network.names.get(id(call.weight)), network.names.get(id(call.bias))
    if weight in names:
        varies = call.input.is_floating_point() and not call.entries
        yield Part(network.span[weight].start, features, varies, call.transposed)
    if bias in names:
        yield Part(network.span[bias].start, constant, False, call.transposed)
