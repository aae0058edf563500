"""The diagonal of the Hessian, of parameters that are computed by matrix products; symbols as in `methods.factored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.factoring import propagation
from methods.factoring.certificate import Certificate
from methods.factoring.network import Network
from methods.factoring.plan import MIXED, Plan
from methods.factoring.refusals import Refused, refusals
from methods.factoring.shifts import Shifts, all_outputs, check
from methods.factoring.uses import Use, uses_of

AT_ONCE = 64  # shifts of the outputs of a layer


def write_diagonal(network: Network, plan: Plan, certificate: Certificate, result: Tensor, product: Tensor) -> None:
    """Write into `result` (P,) the diagonal of the parameters that `plan` leaves to matrix products.

    The diagonal is that of the diagonal blocks, one for each call of an affine map. Their product with the
    certificate's vector is added to `product` (P,), and the plan is given the names in each block. Raises Refused.
    """
    vector = certificate.vector
    uses = uses_of(network, plan.affine)
    plan.refuse({name for use in uses if use.tied for name in use.names}, "it enters several affine maps")
    remaining = _propagated(network, plan, uses, vector, result, product)
    found: list[tuple[Use, Tensor]] = []
    for index, use in enumerate(remaining):
        if use.names <= plan.cheap_rows.keys():
            plan.reasons |= {name: plan.cheap_rows[name] for name in use.names}
        elif not use.tied:
            shifts = Shifts(network, plan.affine, index, [use], certificate)
            use.add_transposed(_write_block_diagonal(use, shifts, use.outputs(vector), result), product)
            found.append((use, shifts.found()))
    each_mixed = check([seen for _, seen in found], certificate, network.precision)
    for (use, _), mixed in zip(found, each_mixed, strict=True):
        if mixed:
            plan.refuse(use.names, MIXED)
    plan.blocks = [use.names for use in uses if not use.names & plan.reasons.keys()]


def _propagated(
    network: Network, plan: Plan, uses: Sequence[Use], vector: Tensor, result: Tensor, product: Tensor
) -> Sequence[Use]:
    """Write what can be propagated back from the outputs. Returns the remaining uses, which are the first ones."""
    try:
        with refusals():
            outputs = propagation.outputs_of(network, plan.affine, uses)
            return uses if outputs is None else propagation.write_diagonal(outputs, uses, vector, result, product)
    except Refused:
        product.zero_()
        return uses


def _write_block_diagonal(use: Use, shifts: Shifts, direction: Tensor, result: Tensor) -> Tensor:
    """Write the diagonal of one call's block into `result` (P,); returns M times a direction (N, S, p)."""
    positions = use.gradient.shape[1]
    product = torch.empty_like(use.gradient)
    for outputs in all_outputs(use, max(AT_ONCE // positions, 1)):
        (m,), _ = shifts.along(outputs)  # M (i, S, N, T, p)
        product[:, :, outputs] = torch.einsum("isntp,ntp->nsi", m, direction)
        own = m[..., outputs].diagonal(dim1=0, dim2=4)  # (S, N, T, i), where i is p
        for part in use.parts:
            entries = torch.einsum("nsj,snti,ntj->ij", part.features, own, part.features)
            use.entries(part, result)[outputs] = entries
    return product
