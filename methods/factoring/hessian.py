"""The Hessian between parameters that are computed by matrix products; symbols as in `methods.factored`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from methods.factoring.certificate import Certificate
from methods.factoring.network import Network
from methods.factoring.plan import MIXED, Plan
from methods.factoring.products import write
from methods.factoring.shard import Rows
from methods.factoring.shifts import Shifts, all_outputs, check
from methods.factoring.uses import Use, uses_of


class Pair(NamedTuple):
    """The derivatives between some outputs of one call and a call that is the same or later."""

    use: Use
    other: Use
    first: int  # of these outputs of `use`
    curvature: Tensor  # M (i, S, N, T, p), of the gradients of `other`
    jacobian: Tensor | None  # J (i, S, N, T, q), of the features of `other`; None for `use` itself


def check_hessian(network: Network, plan: Plan, certificate: Certificate, memory: float) -> None:
    """Make the refusals of `write_hessian` in the plan without writing anything. Raises Refused as that does."""
    deque(pairs(network, plan, certificate, memory, planned_uses(network, plan)), maxlen=0)


def write_hessian(network: Network, plan: Plan, certificate: Certificate, rows: Rows, memory: float, add: bool) -> None:
    """Write into `rows` those of the Hessian between the parameters that `plan` leaves to matrix products.

    With `add` it is added to what is there, the sum of such Hessians.
    The derivatives along shifts that are held at once take about `memory` bytes. Refused in the plan are parameters
    whose samples depend on each other, and those whose rows cost no more than shifts. Raises Refused where torch's
    transforms do not fit the network.
    """
    uses = planned_uses(network, plan)
    tied = set() if add else {name for use in uses if use.tied for name in use.names}  # several pairs of calls add up
    for name in tied:
        rows.of(network.span[name]).zero_()
        rows.entries[:, network.span[name]] = 0
    for pair in pairs(network, plan, certificate, memory, uses):
        write(rows, *pair, add or pair.use.tied or pair.other.tied)


def planned_uses(network: Network, plan: Plan) -> list[Use]:
    """The calls whose parameters `plan` leaves to matrix products, where shifts cost less than rows."""
    plan.reasons |= plan.cheap_rows
    return uses_of(network, plan.affine - plan.cheap_rows.keys())


def pairs(network: Network, plan: Plan, certificate: Certificate, memory: float, uses: Sequence[Use]) -> Iterator[Pair]:
    """The derivatives between every two of the calls; refusals in the plan as `write_hessian` makes them."""
    fixed = plan.affine - plan.cheap_rows.keys()
    found = []
    for index, use in enumerate(uses):
        after = uses[index:]
        shifts = Shifts(network, fixed, index, after, certificate)
        for outputs in all_outputs(use, _fitting(use, after, memory)):
            gradients, features = shifts.along(outputs)
            for other, curvature, jacobian in zip(after, gradients, [None, *features], strict=True):
                yield Pair(use, other, outputs.start, curvature, jacobian)
        found.append(shifts.found())
    for use, mixed in zip(uses, check(found, certificate, network.precision), strict=True):
        if mixed:
            plan.refuse(use.names, MIXED)


def _fitting(use: Use, after: Sequence[Use], memory: float) -> int:
    """How many outputs of a use can be shifted at once, within so many bytes; at least one."""
    samples, positions, _ = use.gradient.shape
    numbers = sum(other.gradient[0].numel() + other.parts[0].features[0].numel() for other in after)
    bytes_of_output = use.gradient.element_size() * samples * positions * 8 * numbers  # 8: intermediate results
    return max(int(memory / bytes_of_output), 1)
