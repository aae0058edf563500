"""The diagonal of a network's Hessian, its curvature propagated back from where it arises.

Let z_l be the outputs of the affine maps of a sample and f those of the network. If all other operations act on the
entries of some z_k one by one, then with the J's of `methods.factored` and some D_k that are diagonal

    M_ll = J_fl^T (d^2 loss / df^2) J_fl + D_l + sum_{k after l} J_kl^T D_k J_kl

of which the rows of J_f, and of a J_k with D_k not zero, each take one backward pass, to all z_l before at once. The
D_k are what a product with the Hessian of <d loss / df, f> leaves; a second, random one tells whether they are
diagonal.

Botev, Ritter, Barber, "Practical Gauss-Newton optimisation for deep learning", ICML 2017; Dangel, Kunstner, Hennig,
"BackPACK: packing more into backprop", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from methods.affine import Network
from methods.products import Use, close, drawn, slices

ROWS = 64  # backward passes at once
OUTPUTS = 256  # of the network, beyond which their curvature is not propagated


class _Sum:
    """What is gathered for one affine map."""

    def __init__(self, use: Use, vector: Tensor) -> None:
        self._use = use
        self._shift = use.outputs(vector)  # (N, S, p)
        self._moved = torch.zeros_like(self._shift.mT.flatten(1)[..., None])  # (N, p S, 1), by the curvature so far
        self._curvature = torch.zeros_like(use.slope)  # (N, S, p), between the same outputs
        self._parts = [use.slope.new_zeros(use.slope.shape[2], part.features.shape[2]) for part in use.parts]
        self.probes = torch.stack([torch.ones_like(use.slope), drawn(use.slope)])  # (2, N, S, p)
        self._flat = self.probes.permute(1, 3, 2, 0).flatten(1, 2)  # (N, p S, 2)
        self._explained = torch.zeros_like(self._flat)

    def add(self, rows: Tensor, curvature: Tensor) -> None:
        """Add J^T A J, for rows J (c, N, S, p) of a source and its curvature A, dense (N, c, c) or diagonal (N, c).

        Of a diagonal one, a D_k, the products with the probes too.
        """
        turned = rows.permute(1, 0, 3, 2).contiguous()  # (N, c, p, S)
        flat, dense = turned.flatten(2), curvature.dim() == 3
        weighted = (torch.bmm(curvature, flat) if dense else curvature[:, :, None] * flat).view(turned.shape)
        if rows.shape[2] == 1:
            self._curvature += (turned * weighted).sum(dim=1).mT
        else:
            for part, use in zip(self._parts, self._use.parts, strict=True):
                own, other = (torch.bmm(x.flatten(1, 2), use.features) for x in (turned, weighted))
                part += (own * other).view(*turned.shape[:3], -1).sum(dim=(0, 1))
        moved = torch.bmm(flat, self._shift.mT.flatten(1)[..., None])
        self._moved += torch.bmm(flat.mT, torch.bmm(curvature, moved) if dense else curvature[:, :, None] * moved)
        if not dense:
            self._explained += torch.bmm(weighted.flatten(2).mT, torch.bmm(flat, self._flat))

    @property
    def explained(self) -> Tensor:
        """The products of all D_k after with the probes (2, N, S, p)."""
        _, samples, positions, outputs = self.probes.shape
        return self._explained.view(samples, outputs, positions, 2).permute(3, 0, 2, 1)

    def write(self, own: Tensor, result: Tensor, product: Tensor) -> None:
        """Write the diagonal, with the map's own D (N, S, p), and the block's product with the vector; both (P,)."""
        _, samples, positions, outputs = self.probes.shape
        self._use.gather(self._moved.view(samples, outputs, positions).mT + own * self._shift, product)
        curvature = (self._curvature + own).flatten(0, 1)
        for part, use in zip(self._parts, self._use.parts, strict=True):
            part += curvature.T @ use.features.flatten(0, 1).square()
            place = result[use.start : use.start + part.numel()]
            (place.view(part.T.shape).T if use.transposed else place.view(part.shape)).copy_(part)


def write_diagonal(
    network: Network, fixed: set[str], uses: Sequence[Use], vector: Tensor, result: Tensor, product: Tensor
) -> int:
    """Write into `result` (P,) the diagonal of the parameters of the last uses; the place of the first of these.

    Into `product` (P,) goes what the blocks of these uses, of which that is the diagonal, make of `vector` (P,). The
    place is len(uses) where the outputs are no tensor (N, ...), are many, or do not alone lead to the loss.
    """
    if not uses:
        return 0
    outputs, maps, shifts = network.traced_outputs(fixed)
    samples = len(uses[0].slope)
    if (
        not isinstance(outputs, Tensor)
        or not outputs.dim()
        or len(maps) != len(uses)
        or outputs.shape[:1] != (samples,)
    ):
        return len(uses)
    leaf = outputs.detach().requires_grad_()
    value = network.criterion(leaf)
    if not value.requires_grad:
        return len(uses)
    (slope,) = torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)
    slope = slope.reshape(samples, -1)  # (N, C)
    seen = torch.autograd.grad(
        outputs, shifts, slope.detach().view_as(outputs), create_graph=True, materialize_grads=True
    )
    alone = all(close(each - use.slope, use.slope) for each, use in zip(seen, uses, strict=True))
    if slope.shape[1] > OUTPUTS or not alone:
        return len(uses)
    units = torch.cat([_units(slope, slice(0, slope.shape[1])), drawn(slope)[None]])
    curvature = _products(slope, [leaf], units)[0].reshape(len(units), *slope.shape).transpose(0, 1)  # (N, C + 1, C)
    if not close(torch.einsum("nc,ncd->nd", units[-1], curvature[:, :-1]) - curvature[:, -1], curvature[:, -1]):
        return len(uses)
    sums = [_Sum(use, vector) for use in uses]
    wrong = _propagate(outputs.reshape(samples, -1), curvature[:, :-1], shifts, sums)
    for place in reversed(range(len(uses))):
        if place in wrong:
            return place + 1
        one, along = _products(seen[place], [shifts[place]], sums[place].probes)[0]
        own, left = (x - y for x, y in zip((one, along), sums[place].explained, strict=True))
        if not close(left - own * sums[place].probes[1], along):
            return place + 1
        sums[place].write(own, result, product)
        if place and not close(own, one):
            wrong |= _propagate(maps[place].flatten(1), own.flatten(1), shifts[:place], sums[:place])
    return 0


def _propagate(source: Tensor, curvature: Tensor, shifts: Sequence[Tensor], sums: Sequence[_Sum]) -> set[int]:
    """Add to the sums what a source (N, C) with a curvature (N, C, C), or diagonal (N, C), brings about.

    Returns the places of those whose samples it mixes, found by a random cotangent.
    """
    probe, count = drawn(source), source.shape[1]
    told = [torch.zeros_like(shift) for shift in shifts]
    mixed = set()
    for some in slices(0, count, count if curvature.dim() == 3 else ROWS):
        units, last = _units(source, some), some.stop == count
        every = _products(source, shifts, torch.cat([units, probe[None]]) if last else units)
        for place, (found, gathered) in enumerate(zip(every, sums, strict=True)):
            rows = found[: len(units)]
            gathered.add(rows, curvature[:, some])
            told[place] += torch.einsum("nc,cnsp->nsp", probe[:, some], rows)
            if last and not close(found[-1] - told[place], found[-1]):
                mixed.add(place)
    return mixed


def _units(like: Tensor, some: slice) -> Tensor:
    """Unit vectors (c, N, C) of some columns, for all samples at once."""
    index = torch.arange(some.start, some.stop, device=like.device)
    return functional.one_hot(index, like.shape[1]).to(like)[:, None].expand(-1, len(like), -1)


def _products(outputs: Tensor, inputs: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Slopes (c, ...) of `outputs . cotangent` in every input, for cotangents (c, ...)."""
    zeros = [x.new_zeros(len(cotangents), *x.shape) for x in inputs]
    if not outputs.requires_grad:
        return zeros
    found = torch.autograd.grad(
        outputs, list(inputs), cotangents, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    return [zero if x is None else x for x, zero in zip(found, zeros, strict=True)]
