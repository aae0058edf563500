"""A Hessian out of unit shifts of the outputs of affine maps; symbols as in `methods.factored`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods import curvature
from methods.affine import Network, Refused
from methods.certificate import PARAMETER, TOLERANCE, Certificate
from methods.plan import MIXED, Plan, refusals
from methods.products import Part, Use, close, drawn, write

AT_ONCE = 64  # shifts of the outputs of a layer, where its diagonal alone is wanted


def uses_of(network: Network, fixed: set[str]) -> list[Use]:
    """Every call of an affine map of the parameters `fixed`, in the order of the calls; raises Refused."""
    with refusals():
        loss, calls, shifts = network.traced(fixed)
        slopes = torch.autograd.grad(loss, shifts, materialize_grads=True) if shifts else ()
    owners = [network.owners(call) & fixed for call in calls]
    uses = []
    for call, slope, names in zip(calls, slopes, owners, strict=True):
        a = call.features(call.input.detach())
        parts = []
        for p, features, varies in (
            (call.weight, a, call.input.is_floating_point()),
            (call.bias, a.new_ones(*a.shape[:2], 1), False),
        ):
            if network.names.get(id(p)) in names:
                parts.append(Part(network.span[network.names[id(p)]].start, features, varies, call.transposed))
        tied = sum(bool(names & others) for others in owners) > 1
        uses.append(Use(frozenset(names), tuple(parts), slope, tied))
    return uses


class _Tangents:
    """Derivatives along shifts of one call: of the slopes g of that call and those after it, and of their features.

    Finds samples that depend on each other, by a random shift of all outputs that differs from sample to sample: what
    it changes must be what the unit shifts, given to all samples at once, explain.
    """

    def __init__(
        self, network: Network, fixed: set[str], uses: list[Use], first: int, last: int, certificate: Certificate
    ) -> None:
        self._network, self._fixed, self._first, self._last = network, fixed, first, last
        self._zeros = [torch.zeros_like(use.slope) for use in uses]
        self._certificate, self._plain = certificate, [use.slope for use in uses[first : last + 1]]
        self._chance = drawn(uses[first].slope)
        self._whole: list[Tensor] = []
        self._left: list[Tensor] = []

    def __call__(self, which: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Along unit shifts (i, S) of the outputs `which`: M (i, S, N, T, p) of the slopes, J (i, S, N, T, q).

        Raises Refused where torch has no rule for an operation, or where the loss or its slopes have other values under
        torch's transforms than without them.
        """
        shifts = torch.cat([_units(self._chance, which), self._chance[None]])
        with torch.no_grad(), refusals():
            values, (slopes, (_, features)) = torch.func.vmap(self._along)(shifts)
        if not self._left:
            self._compare(values[1][0][0], [batch[0] for batch in values[0]])
            self._whole = [tangent[-1] for tangent in (*slopes, *features)]
            self._left = [tangent.clone() for tangent in self._whole]
        shape = (len(which), self._chance.shape[1])
        slopes, features = ([tangent[:-1].unflatten(0, shape) for tangent in part] for part in (slopes, features))
        chance = self._chance[:, :, which].mT.flatten(1)[:, None]  # (N, 1, i S)
        for left, tangent in zip(self._left, (*slopes, *features), strict=True):
            left -= torch.bmm(chance, tangent.flatten(0, 1).flatten(2).transpose(0, 1)).view(left.shape)
        return slopes, features

    def mixed(self) -> bool:
        """Whether samples depend on each other; to be asked after all outputs."""
        return not all(close(left, whole) for left, whole in zip(self._left, self._whole, strict=True))

    def _compare(self, value: Tensor, slopes: Sequence[Tensor]) -> None:
        if not self._certificate.has_value(value):
            raise Refused(f"the loss under torch's transforms is {float(value):.6g}, not {self._certificate.value:.6g}")
        distance = sum(float((x - y).double().norm()) for x, y in zip(slopes, self._plain, strict=True))
        size = sum(float(plain.double().norm()) for plain in self._plain)
        if not distance <= PARAMETER * TOLERANCE[self._network.precision] * size:  # near zero its terms cancel
            raise Refused(f"the loss's gradient under torch's transforms is off by {distance / size:.1e}")

    def _along(self, shift: Tensor) -> Any:
        return torch.func.jvp(self._slopes, (self._zeros[self._first],), (shift,))

    def _slopes(self, shift: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, list[Tensor]]]:
        own, after = self._first, self._zeros[self._first + 1 : self._last + 1]

        def loss(shifts: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            def chosen(place: int, z: Tensor) -> Tensor:
                return shifts[place - own] if own <= place <= self._last else torch.zeros_like(z)

            value, calls = self._network.loss(self._fixed, chosen)
            return value, (value, [call.features(call.input) for call in calls[own + 1 : self._last + 1]])

        return torch.func.grad(loss, has_aux=True)((shift, *after))


def _units(like: Tensor, which: Tensor) -> Tensor:
    """Shifts of the outputs `which` at each position, for all samples at once: (len(which) * S, N, S, p)."""
    samples, positions, outputs = like.shape
    units = like.new_zeros(len(which), positions, samples, positions, outputs)
    place = torch.arange(positions, device=like.device)
    units[torch.arange(len(which), device=like.device)[:, None], place, :, place, which[:, None]] = 1
    return units.flatten(0, 1)


def write_blocks(network: Network, plan: Plan, certificate: Certificate, out: Tensor | None, memory: float) -> None:
    """Write the Hessian between the parameters that `plan` leaves to products; without `out` only the plan is checked.

    Those whose samples depend on each other are left to rows. Raises Refused.
    """
    fixed = plan.fixed - plan.wide.keys()
    plan.reasons |= plan.wide
    uses = uses_of(network, fixed)
    if out is not None:
        for name in {name for use in uses if use.tied for name in use.names}:
            out[network.span[name]] = 0
            out[:, network.span[name]] = 0
    for first, use in enumerate(uses):
        tangents, after = _Tangents(network, fixed, uses, first, len(uses) - 1, certificate), uses[first:]
        samples, positions, outputs = use.slope.shape
        moved = sum(other.slope[0].numel() + other.parts[0].features[0].numel() for other in after)
        each = use.slope.element_size() * samples * positions * 8 * moved
        for which in torch.arange(outputs, device=use.slope.device).split(min(max(int(memory / each), 1), outputs)):
            slopes, features = tangents(which)
            if out is not None:
                for other, slope, feature in zip(after, slopes, [None, *features], strict=True):
                    write(out, use, other, int(which[0]), slope, feature)
        if tangents.mixed():
            plan.refuse(use.names, MIXED)


def write_diagonal(network: Network, plan: Plan, certificate: Certificate, result: Tensor, product: Tensor) -> None:
    """Write into `result` (P,) the diagonal of the parameters that `plan` leaves to products.

    Into `product` (P,) goes what the blocks on the diagonal, of which that is the diagonal, make of the certificate's
    vector; the plan is told of these blocks. Raises Refused.
    """
    vector = certificate.vector
    uses = uses_of(network, plan.fixed)
    plan.refuse({name for use in uses if use.tied for name in use.names}, "it enters several affine maps")
    try:
        with refusals():
            left = curvature.write_diagonal(network, plan.fixed, uses, vector, result, product)
    except Refused:
        left = len(uses)
        product.zero_()
    for first, use in enumerate(uses[:left]):
        if use.names <= plan.wide.keys():
            plan.reasons |= {name: plan.wide[name] for name in use.names}
        elif not use.tied:
            tangents = _Tangents(network, plan.fixed, uses, first, first, certificate)
            use.gather(_write_own(use, tangents, use.outputs(vector), result), product)
            if tangents.mixed():
                plan.refuse(use.names, MIXED)
    plan.blocks = [use.names for use in uses if not use.names & plan.reasons.keys()]


def _write_own(use: Use, tangents: _Tangents, shift: Tensor, result: Tensor) -> Tensor:
    """Write the diagonal of one call's block into `result` (P,); M times a shift (N, S, p) of its outputs."""
    positions, outputs = use.slope.shape[1:]
    moved = torch.empty_like(use.slope)
    for which in torch.arange(outputs, device=result.device).split(max(AT_ONCE // positions, 1)):
        (slopes,), _ = tangents(which)  # (i, S, N, T, p)
        moved[:, :, which] = torch.einsum("isntp,ntp->nsi", slopes, shift)
        own = slopes[torch.arange(len(which)), ..., which]  # (i, S, N, T)
        for part in use.parts:
            found = torch.einsum("nsj,isnt,ntj->ij", part.features, own, part.features)
            use.entries(part, result)[which] = found
    return moved
