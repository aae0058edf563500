"""Which parameters of a network the factored method computes by matrix products, and why others take rows."""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.factoring.affine import Call
from methods.factoring.certificate import Certificate
from methods.factoring.network import Network
from methods.factoring.numerics import close, drawn, every
from methods.factoring.refusals import Refused, refusals

DRAWS = 20  # evaluations of a loss that draws random numbers, before it counts as deterministic

PRODUCTS = "matrix products"
MIXED = "samples depend on each other"


@dataclass
class Plan:
    """How each parameter is computed. Those that are neither in `affine` nor in `reasons` do not exist."""

    affine: set[str] = field(default_factory=set)  # by matrix products, unless `reasons` names them
    cheap_rows: dict[str, str] = field(default_factory=dict)  # of `affine`: rows cost no more than shifts, and why
    penalties: dict[str, Tensor] = field(default_factory=dict)  # (p,) that a penalty in the loss adds to the diagonal
    reasons: dict[str, str] = field(default_factory=dict)  # why parameters take rows
    blocks: list[frozenset[str]] = field(default_factory=list)  # of `diagonal`: names in each block by products

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Let parameters take rows. A parameter's first reason counts."""
        for name in names:
            self.reasons.setdefault(name, reason)

    def added(self) -> dict[str, Tensor]:
        """The penalties (p,) of parameters that are computed by matrix products."""
        return {name: penalty for name, penalty in self.penalties.items() if name not in self.reasons}


def planned(
    network: Network, certificate: Certificate, write: Callable[[Plan], None], earlier: Mapping[str, str]
) -> Plan:
    """Makes a plan, and lets `write` carry out its matrix products.

    `earlier` says why parameters take rows in an earlier batch of the same sum; they take rows in this one too.
    `write` adds to the plan's reasons where samples turn out to depend on each other, and raises Refused where torch's
    transforms do not fit the network. Raises ValueError as `check_deterministic`.
    """
    before = generator_states(network.theta)
    try:
        plan = _first_plan(network, certificate)
    except Refused as refused:
        check_deterministic(network, certificate)
        return Plan(reasons=dict.fromkeys(network.params, str(refused)))
    if drawn_since(before, network.theta):
        check_deterministic(network, certificate)
    plan.affine -= earlier.keys()
    plan.reasons |= earlier
    try:
        write(plan)
    except Refused as refused:
        plan.refuse(plan.affine, str(refused))
        plan.blocks = []
    return plan


def check_deterministic(network: Network, certificate: Certificate) -> None:
    """Raise ValueError where another evaluation of the loss has another value.

    A loss that draws random numbers is evaluated `DRAWS` times: two evaluations may happen to drop the same units.
    """
    before = generator_states(network.theta)
    for _ in range(DRAWS):
        again = float(network.plain().detach())
        if not certificate.has_value(again):
            raise ValueError(
                f"the loss is not deterministic: {certificate.value} and {again} at the same parameters; "
                "call model.eval(), or fix what is drawn"
            )
        if not drawn_since(before, network.theta):
            return


def drawn_since(before: Sequence[Tensor], like: Tensor) -> bool:
    """Whether random numbers have been drawn since the generators had these states."""
    return not all(map(torch.equal, generator_states(like), before))


def generator_states(like: Tensor) -> list[Tensor]:
    """The states of torch's random generators, on the CPU and on the device of `like`."""
    states = [torch.get_rng_state()]
    if like.is_cuda:
        states.append(torch.cuda.get_rng_state(like.device))
    return states


def _first_plan(network: Network, certificate: Certificate) -> Plan:
    """The plan before any shift: which parameters only enter affine maps.

    A parameter that enters elsewhere too still counts if that adds only a diagonal to the Hessian, as a penalty does.
    Raises Refused where the traced loss is not the plain one, or torch cannot differentiate it.
    """
    with refusals():
        loss, calls, shifts = network.traced(network.params)
    if network.precision != network.theta.dtype:
        raise Refused(f"the loss computes in {network.precision} within")
    if not certificate.has_value(float(loss.detach())):
        raise Refused("the loss has another value when its operations are watched")
    affine = {name for call in calls for name in network.owners(call)}
    elsewhere, penalties = _elsewhere(network, loss, shifts)
    unused = network.params.keys() - affine - elsewhere - penalties.keys()
    cheap_rows = _cheap_rows(network, calls)
    cheap_rows |= dict.fromkeys(unused, "the loss's slope in it is constant, so that its rows are zero")
    outside, both = network.params.keys() - affine - unused, affine & elsewhere
    reasons = dict.fromkeys(outside, "it enters no affine map of the samples")
    reasons |= dict.fromkeys(both, "it also enters other than through its affine map")
    return Plan(affine - elsewhere, cheap_rows, penalties, reasons)


def _cheap_rows(network: Network, calls: Sequence[Call]) -> dict[str, str]:
    """The parameters with at least as many positions as inputs, whose rows cost no more than shifts, and the reason."""
    positions, inputs = defaultdict[str, float](float), {}
    for call in calls:
        if call.entries:
            continue
        _, count, width = call.features(call.input.detach()).shape
        for name in network.owners(call):
            positions[name] += count * call.share
            inputs[name] = width
    return {
        name: f"{positions[name]:g} positions, no fewer than its {width} inputs"
        for name, width in inputs.items()
        if positions[name] >= width
    }


def _elsewhere(network: Network, loss: Tensor, shifts: Sequence[Tensor]) -> tuple[set[str], dict[str, Tensor]]:
    """The parameters that a traced loss depends on directly, since the trace holds them fixed in affine maps.

    The second result has those for which this only adds a diagonal (p,) to the Hessian; the first has the others.
    """
    if not loss.requires_grad:
        return set(), {}
    params = list(network.params.values())
    gradients = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    diagonals = {
        name: _diagonal(gradient, network.params[name], [*params, *shifts])
        for name, gradient in zip(network.params, gradients, strict=True)
        if gradient is not None and gradient.requires_grad
    }
    if not diagonals:
        return set(), {}
    alone = torch.stack([is_alone for _, is_alone in diagonals.values()]).tolist()
    elsewhere = set(itertools.compress(diagonals, map(operator.not_, alone)))
    return elsewhere, {name: diagonal.flatten() for name, (diagonal, _) in diagonals.items() if name not in elsewhere}


def _diagonal(gradient: Tensor, param: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The derivative of a gradient in its own parameter, if it is diagonal; whether () it is and all others are zero.

    `param` is one of the inputs. A diagonal D is D v = (D 1) * v for a random v.
    """
    probe = drawn(gradient)
    of_ones, of_probe = (
        torch.autograd.grad(gradient, inputs, vector, retain_graph=True, materialize_grads=True)
        for vector in (torch.ones_like(gradient), probe)
    )
    place = next(index for index, x in enumerate(inputs) if x is param)
    others = [*of_ones[:place], *of_ones[place + 1 :], *of_probe[:place], *of_probe[place + 1 :]]
    diagonal, product = of_ones[place], of_probe[place]
    return diagonal, every([close(product - diagonal * probe, product), *(~part.any() for part in others)])
