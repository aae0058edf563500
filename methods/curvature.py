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

    def __init__(self, use: Use) -> None:
        self._use = use
        self._curvature = torch.zeros_like(use.slope)  # (N, S, p), between the same outputs
        self._parts = [use.slope.new_zeros(use.slope.shape[2], part.features.shape[2]) for part in use.parts]
        self.probes = torch.stack([torch.ones_like(use.slope), drawn(use.slope)])  # (2, N, S, p)
        self.explained = torch.zeros_like(self.probes)  # the products with them of all sources after

    def add(self, rows: Tensor, curvature: Tensor, explains: bool) -> None:
        """Add J^T A J, for rows J (c, N, S, p) of a source and its curvature A, dense (c, N, c) or diagonal (c, N)."""
        dense = curvature.dim() == 3
        weighted = torch.einsum("cnd,dnsp->cnsp", curvature, rows) if dense else curvature[:, :, None, None] * rows
        if rows.shape[2] == 1:
            self._curvature += (rows * weighted).sum(dim=0)
        else:
            for part, use in zip(self._parts, self._use.parts, strict=True):
                own = _gradients(rows, use.features)
                if dense:
                    part += (own * _gradients(weighted, use.features)).sum(dim=(0, 1))
                else:
                    part += torch.einsum("ncij,cn->ij", own.square(), curvature)
        if explains:
            along = torch.einsum("cnsp,vnsp->vcn", rows, self.probes)
            self.explained += torch.einsum("vcn,cnsp->vnsp", along, weighted)

    def write(self, own: Tensor, result: Tensor) -> None:
        """Write the diagonal, with the map's own D (N, S, p)."""
        curvature = (self._curvature + own).flatten(0, 1)
        for part, use in zip(self._parts, self._use.parts, strict=True):
            part += curvature.T @ use.features.flatten(0, 1).square()
            place = result[use.start : use.start + part.numel()]
            (place.view(part.T.shape).T if use.transposed else place.view(part.shape)).copy_(part)


def write_diagonal(network: Network, fixed: set[str], uses: Sequence[Use], result: Tensor) -> int:
    """Write into `result` (P,) the diagonal of the parameters of the last uses; the place of the first of these.

    That is len(uses) where the outputs are no tensor (N, ...), are many, or do not alone lead to the loss.
    """
    outputs, maps, shifts = network.traced_outputs(fixed)
    samples = len(uses[0].slope) if uses else 0
    if not isinstance(outputs, Tensor) or len(maps) != len(uses) or outputs.shape[:1] != (samples,):
        return len(uses)
    leaf = outputs.detach().requires_grad_()
    slope = torch.autograd.grad(network.criterion(leaf), leaf, create_graph=True)[0].flatten(1)  # (N, C)
    seen = torch.autograd.grad(outputs, shifts, slope.detach().view_as(outputs), create_graph=True,
                               materialize_grads=True)  # fmt: skip
    alone = all(close(each - use.slope, use.slope) for each, use in zip(seen, uses, strict=True))
    if slope.shape[1] > OUTPUTS or not alone:
        return len(uses)
    units = torch.cat([_units(slope, slice(0, slope.shape[1])), drawn(slope)[None]])
    curvature = _products(slope, [leaf], units)[0].flatten(2)  # (C + 1, N, C)
    if not close(torch.einsum("nc,cnd->nd", units[-1], curvature[:-1]) - curvature[-1], curvature[-1]):
        return len(uses)
    sums = [_Sum(use) for use in uses]
    wrong = _propagate(outputs.flatten(1), curvature[:-1], shifts, sums, explains=False)
    for place in reversed(range(len(uses))):
        if place in wrong:
            return place + 1
        one, along = _products(seen[place], [shifts[place]], sums[place].probes)[0]
        own, left = (x - y for x, y in zip((one, along), sums[place].explained, strict=True))
        if not close(left - own * sums[place].probes[1], along):
            return place + 1
        sums[place].write(own, result)
        if place and not close(own, one):
            wrong |= _propagate(maps[place].flatten(1), own.flatten(1), shifts[:place], sums[:place], explains=True)
    return 0


def _propagate(
    source: Tensor, curvature: Tensor, shifts: Sequence[Tensor], sums: Sequence[_Sum], explains: bool
) -> set[int]:
    """Add to the sums what a source (N, C) with a curvature (C, N, C), or diagonal (N, C), brings about.

    Returns the places of those whose samples it mixes, found by a random cotangent.
    """
    probe = drawn(source)
    left = [x[0] for x in _products(source, shifts, probe[None])]
    whole = [x.clone() for x in left]
    count = source.shape[1]
    for some in slices(0, count, count if curvature.dim() == 3 else ROWS):
        every = _products(source, shifts, _units(source, some))
        for place, (rows, gathered) in enumerate(zip(every, sums, strict=True)):
            gathered.add(rows, curvature if curvature.dim() == 3 else curvature[:, some].T, explains)
            left[place] -= torch.einsum("nc,cnsp->nsp", probe[:, some], rows)
    return {place for place, (x, y) in enumerate(zip(left, whole, strict=True)) if not close(x, y)}


def _gradients(rows: Tensor, features: Tensor) -> Tensor:
    """Of rows (c, N, S, p) and features (N, S, q), those of the weight for each sample: (N, c, p, q)."""
    turned = rows.permute(1, 0, 3, 2)
    return torch.bmm(turned.flatten(1, 2), features).unflatten(1, turned.shape[1:3])


def _units(like: Tensor, some: slice) -> Tensor:
    """Unit vectors (c, N, C) of some columns, for all samples at once."""
    index = torch.arange(some.start, some.stop, device=like.device)
    return functional.one_hot(index, like.shape[1]).to(like)[:, None].expand(-1, len(like), -1)


def _products(outputs: Tensor, inputs: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Slopes (c, ...) of `outputs . cotangent` in every input, for cotangents (c, ...)."""
    zeros = [x.new_zeros(len(cotangents), *x.shape) for x in inputs]
    if not outputs.requires_grad:
        return zeros
    found = torch.autograd.grad(outputs, list(inputs), cotangents, is_grads_batched=True, retain_graph=True,
                                allow_unused=True)  # fmt: skip
    return [zero if x is None else x for x, zero in zip(found, zeros, strict=True)]
