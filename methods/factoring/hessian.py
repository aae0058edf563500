"""The Hessian between parameters that are computed by matrix products; symbols as in `methods.factored`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from methods.factoring.certificate import Certificate
from methods.factoring.chain import Chain
from methods.factoring.network import Network
from methods.factoring.pairs import Pair
from methods.factoring.plan import MIXED, Plan
from methods.factoring.products import write
from methods.factoring.segmented import Segmented, segmented
from methods.factoring.shard import Rows


def check_hessian(network: Network, plan: Plan, certificate: Certificate, memory: float) -> None:
    """Make the refusals of `write_hessian` in the plan without writing anything. Raises Refused as that does."""
    deque(pairs(network, plan, certificate, memory, planned_segments(network, plan, memory)), maxlen=0)


def write_hessian(network: Network, plan: Plan, certificate: Certificate, rows: Rows, memory: float, add: bool) -> None:
    """Write into `rows` those of the Hessian between the parameters that `plan` leaves to matrix products.

    With `add` it is added to what is there, the sum of such Hessians.
    The derivatives along shifts that are held at once take about `memory` bytes. Refused in the plan are parameters
    whose samples depend on each other, and those whose rows cost no more than shifts. Raises Refused where torch's
    transforms do not fit the network.
    """
    found = planned_segments(network, plan, memory)
    uses = found.uses
    tied = set() if add else {name for use in uses if use.tied for name in use.names}  # several pairs of calls add up
    for name in tied:
        rows.of(network.span[name]).zero_()
        rows.entries[:, network.span[name]] = 0
    for pair in pairs(network, plan, certificate, memory, found):
        write(rows, *pair, add or pair.use.tied or pair.other.tied)


def planned_segments(network: Network, plan: Plan, memory: float) -> Segmented:
    """The calls whose parameters `plan` leaves to matrix products, where shifts cost less than rows."""
    plan.reasons |= plan.cheap_rows
    return segmented(network, plan.affine - plan.cheap_rows.keys(), memory)


def pairs(network: Network, plan: Plan, certificate: Certificate, memory: float, found: Segmented) -> Iterator[Pair]:
    """The derivatives between every two of the calls; refusals in the plan as `write_hessian` makes them."""
    chain = Chain(found.uses, found.segments, memory)
    yield from chain.pairs()
    for use in chain.mixed(certificate, network.precision):
        plan.refuse(use.names, MIXED)
