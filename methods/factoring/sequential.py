"""The diagonal of a chain of affine maps and elementwise functions; symbols as in `methods.factored`.

Let z_l = W_l a_l + b_l be the outputs of a map, without positions, and a_{l+1} = f_l(z_l) the features of the next one,
entry by entry. The curvature M_l = d^2 loss / d z_l^2 of a sample follows from that of the next map,

    M_l = F_l W_{l+1}^T M_{l+1} W_{l+1} F_l + D_l

with the diagonal F_l = f_l'(z_l) and D_l = f_l''(z_l) (W_{l+1}^T g_{l+1}). Of the first map only the diagonal of M is
formed, and its product with a vector.

Botev, Ritter, Barber, "Practical Gauss-Newton optimisation for deep learning", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.affine import Call
from methods.factoring.certificate import Certificate
from methods.factoring.network import Network
from methods.factoring.numerics import one_hot
from methods.factoring.plan import drawn_since, generator_states
from methods.factoring.refusals import Refused, refusals
from methods.factoring.rows import vjps
from methods.factoring.uses import Use, uses_of_calls

NUMBERS = 2**25  # of a curvature, all samples together, beyond which a network counts as no chain


class _Step(NamedTuple):
    """What lies between the outputs z of a map and those of the next one, z' = W f(z) + b."""

    weight: Tensor  # W (p', p)
    first: Tensor  # f'(z) (N, p)
    second: Tensor  # f''(z) times the slope of the loss in f(z): D (N, p)


class _Chain(NamedTuple):
    """The maps, what lies between them, and the curvature M (N, p, p) in the outputs of the last one."""

    uses: list[Use]
    steps: list[_Step]
    curvature: Tensor


def write_sequential(
    network: Network, certificate: Certificate, result: Tensor, product: Tensor
) -> list[frozenset[str]]:
    """Write into `result` (P,) the diagonal of a network that may be such a chain, and return the names of each block.

    Adds to `product` (P,) what the diagonal blocks make of the certificate's vector. Whether samples are mixed, and
    whether the other operations act entry by entry, is not looked at: otherwise the product is not that of the
    network. Writes nothing and returns no names where the network is seen to be no chain.
    """
    before = generator_states(network.theta)
    try:
        with refusals():
            chain = _chain(network, certificate)
    except Refused:
        return []
    if chain is None or drawn_since(before, network.theta):
        return []
    directions = [use.outputs(certificate.vector)[:, 0] for use in chain.uses]  # (N, p)
    curvature = chain.curvature
    diagonal, moved = curvature.diagonal(dim1=1, dim2=2), _times(curvature, directions[-1])
    _write(chain.uses[-1], diagonal, moved, result, product)
    for place in reversed(range(len(chain.steps))):
        (weight, first, second), direction = chain.steps[place], directions[place]
        right = curvature @ weight  # (N, p', p)
        diagonal = (weight * right).sum(1) * first.square() + second
        moved = first * (_times(curvature, (first * direction) @ weight.T) @ weight) + second * direction
        _write(chain.uses[place], diagonal, moved, result, product)
        if place:
            curvature = first[:, :, None] * (weight.T @ right) * first[:, None] + torch.diag_embed(second)
    return [use.names for use in chain.uses]


def _chain(network: Network, certificate: Certificate) -> _Chain | None:
    """The network as a chain; None where it is seen to be none.

    It is none where a parameter enters otherwise than through one map, where shapes differ, and where the loss has
    another value than the plain one.
    """
    loss, calls, shifts = network.traced(network.params)
    owners = [name for call in calls for name in network.owners(call)]
    if sorted(owners) != sorted(network.params) or network.precision != network.theta.dtype:
        return None
    if not certificate.has_value(float(loss.detach())) or not _fit(calls, shifts):
        return None
    found = torch.autograd.grad(loss, [*shifts, *network.params.values()], create_graph=True, allow_unused=True)
    gradients, elsewhere = found[: len(shifts)], found[len(shifts) :]
    if any(part is None for part in gradients) or any(part is not None for part in elsewhere):
        return None
    steps = []
    for shift, call, slope in zip(shifts, calls[1:], gradients[1:], strict=False):
        features = call.features(call.input)
        if features.shape != shift.shape or not features.requires_grad:
            return None
        weight = call.weight.detach().reshape(slope.shape[2], -1)
        (first,) = torch.autograd.grad(features.sum(), shift, create_graph=True, materialize_grads=True)
        second = torch.zeros_like(first)
        if first.requires_grad:
            slope = slope.detach() @ weight  # of the loss in the features
            (second,) = torch.autograd.grad(first, shift, slope, retain_graph=True, materialize_grads=True)
        steps.append(_Step(weight, first.detach()[:, 0], second[:, 0]))
    uses = uses_of_calls(network, set(network.params), calls, [gradient.detach() for gradient in gradients])
    if any(use.tied for use in uses):
        return None
    return _Chain(uses, steps, _last_curvature(gradients[-1], shifts[-1]))


def _fit(calls: Sequence[Call], shifts: Sequence[Tensor]) -> bool:
    """Whether there are no positions, and curvatures (N, p', p) that are not too large."""
    samples, widths = len(shifts[0]), [shift.shape[2] for shift in shifts]
    if any(call.entries or call.transposed or call.share < 1 for call in calls) or any(
        shift.shape[1] != 1 for shift in shifts
    ):
        return False
    largest = max([widths[-1] ** 2, *(one * max(one, other) for one, other in pairwise(reversed(widths)))])
    return samples * largest <= NUMBERS and all(len(shift) == samples for shift in shifts)


def _last_curvature(gradient: Tensor, shift: Tensor) -> Tensor:
    """The derivative (N, p, p) of the loss's gradient (N, 1, p) in the outputs of the last map."""
    samples, _, width = shift.shape
    units = one_hot(slice(0, width), width, shift)[:, None, None].expand(-1, samples, -1, -1)  # (p, N, 1, p)
    (products,) = vjps([gradient], [shift], [units])
    return products[:, :, 0].transpose(0, 1)


def _times(matrices: Tensor, x: Tensor) -> Tensor:
    """Matrices (N, p, p) times a vector (N, p) for each."""
    return torch.bmm(matrices, x[:, :, None])[:, :, 0]


def _write(use: Use, diagonal: Tensor, moved: Tensor, result: Tensor, product: Tensor) -> None:
    """Write the diagonal of a map's block from that of M (N, p), and add its product, from that of M (N, p)."""
    use.add_transposed(moved[:, None], product)
    for part in use.parts:
        use.entries(part, result).copy_(diagonal.T @ part.features[:, 0].square())
