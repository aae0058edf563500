"""Which parameters of a network the factored method does by matrix products, and why others take rows."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from methods.affine import Network, Refused
from methods.certificate import Certificate
from methods.products import close, drawn

DRAWS = 20  # evaluations of a loss that draws random numbers, before it counts as deterministic

PRODUCTS = "matrix products"
MIXED = "samples depend on each other"

# What torch says where an operation has no rule for a transform, and what that means.
_REFUSALS = (
    (
        r"functorch transforms|saved tensor hooks|inside of a function being transformed|doesn't have storage"
        r"|would mutate a captured Tensor|inference tensor",
        "torch's transforms cannot see into an operation",
    ),
    (r"forward AD|forward-mode|forward mode|decomposition for", "torch has no forward mode of an operation"),
    (r"ZeroTensors are immutable", "torch has no forward mode of a gradient"),
    (r"derivative for .* not implemented|differentiate twice", "torch has no second derivative of an operation"),
    (r"[Ss]parse", "torch's transforms do not take sparse tensors"),
    (r"vmap|[Bb]atching rule|randomness error mode", "torch has no rule to batch an operation"),
    (
        r"not have been used in the graph|does not require grad|requires_grad",
        "torch's transforms do not see a gradient within the forward pass",
    ),
)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises Refused where torch says that an operation has no rule for one of its transforms."""
    try:
        yield
    except CheckpointError as error:
        raise Refused("torch's transforms cannot see into checkpoints") from error
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).split("\n")[0]
        for pattern, meaning in _REFUSALS:
            if re.search(pattern, str(error)):
                raise Refused(f"{meaning}: {said[:120]}") from error
        raise


@dataclass
class Plan:
    """Which parameters are done by matrix products, and why the others are not."""

    fixed: set[str] = field(default_factory=set)  # only enter affine maps: by products unless a reason says otherwise
    wide: dict[str, str] = field(default_factory=dict)  # those whose rows cost less than shifts, or nothing, and why
    penalty: dict[str, Tensor] = field(default_factory=dict)  # what is on their diagonals beside that
    reasons: dict[str, str] = field(default_factory=dict)  # why parameters take rows
    blocks: list[frozenset[str]] = field(default_factory=list)  # parameters of the blocks whose diagonals are done

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Leave parameters to rows; the first reason counts."""
        for name in names:
            self.reasons.setdefault(name, reason)


def check_deterministic(network: Network, certificate: Certificate) -> None:
    """Raise ValueError where another evaluation of the loss has another value.

    One that draws random numbers is evaluated `DRAWS` times: few units may be dropped alike twice.
    """
    before = _generators(network.theta)
    loss, _ = network.loss((), lambda place, z: z)
    draws = not all(map(torch.equal, _generators(network.theta), before))
    if certificate.has_value(loss) and not draws:
        return
    for _ in range(DRAWS if draws else 1):
        again = network.plain().detach()
        if not certificate.has_value(again):
            raise ValueError(
                f"the loss is not deterministic: {float(certificate.value)} and {float(again)} at the same parameters; "
                "call model.eval(), or fix what is drawn"
            )


def _generators(like: Tensor) -> list[Tensor]:
    """The states of torch's random generators, on the CPU and on a tensor's device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(like.device)] if like.is_cuda else [])]


def planned(network: Network, certificate: Certificate, write: Callable[[Plan], None]) -> Plan:
    """Which parameters are done by products; `write` does them, and leaves to rows what turns out not to fit."""
    check_deterministic(network, certificate)
    try:
        plan = _entering(network, certificate)
    except Refused as refused:
        return Plan(reasons=dict.fromkeys(network.params, str(refused)))
    try:
        write(plan)
    except Refused as refused:
        plan.refuse(plan.fixed, str(refused))
        plan.blocks = []
    return plan


def _entering(network: Network, certificate: Certificate) -> Plan:
    """The parameters that only enter affine maps, and those of them whose rows are fewer than shifts of the outputs.

    A parameter that enters elsewhere too is taken if what that adds to its rows is diagonal, as with a penalty. Raises
    Refused.
    """
    with refusals():
        loss, calls, shifts = network.traced(network.params)
    if network.precision != network.theta.dtype:
        raise Refused(f"the loss computes in {network.precision} within")
    if not certificate.has_value(loss):
        raise Refused("the loss has another value when its operations are watched")
    affine, shifted, inputs = set(), Counter(), {}
    for call in calls:
        _, positions, width = call.features(call.input.detach()).shape
        for name in network.owners(call):
            affine.add(name)
            shifted[name] += positions
            inputs[name] = width
    wide = {
        name: f"{shifted[name]} positions, no fewer than its {inputs[name]} inputs"
        for name in affine
        if shifted[name] >= inputs[name]
    }
    elsewhere, diagonals = _elsewhere(network, loss, shifts)
    idle = network.params.keys() - affine - elsewhere - diagonals.keys()
    wide |= dict.fromkeys(idle, "the loss's slope in it is constant, so that its rows are zero")
    reasons = dict.fromkeys(
        network.params.keys() - affine - idle, "it enters no Linear, Conv1d, Conv2d or Embedding that can be shifted"
    )
    reasons |= dict.fromkeys(affine & elsewhere, "it also enters other than through its affine map")
    return Plan(affine - elsewhere, wide, diagonals, reasons)


def _elsewhere(network: Network, loss: Tensor, shifts: Sequence[Tensor]) -> tuple[set[str], dict[str, Tensor]]:
    """The parameters that a traced loss depends on beside its affine maps; those for which that adds a diagonal."""
    params = list(network.params.values())
    if not loss.requires_grad:
        return set(), {}
    slopes = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    elsewhere, diagonals = set(), {}
    for place, (name, slope) in enumerate(zip(network.params, slopes, strict=True)):
        if slope is None or not slope.requires_grad:
            continue
        probe = drawn(slope)
        one, along = (
            torch.autograd.grad(slope, [*params, *shifts], vector, retain_graph=True, materialize_grads=True)
            for vector in (torch.ones_like(slope), probe)
        )
        others = [part for tangents in (one, along) for at, part in enumerate(tangents) if at != place]
        alone = not any(bool(part.any()) for part in others)
        if alone and close(along[place] - one[place] * probe, along[place]):
            diagonals[name] = one[place].flatten()
        else:
            elsewhere.add(name)
    return elsewhere, diagonals
