"""The diagonal of a network's Hessian, by propagating curvature back from where it arises.

Let z_l be the outputs of the affine maps of a sample and f the outputs of the network. Suppose that all other
operations act on the entries of some z_k one by one. With the Jacobians J of `methods.factored` and diagonal D_k

    M_ll = J_fl^T (d^2 loss / df^2) J_fl + D_l + sum_{k after l} J_kl^T D_k J_kl

The sources of curvature are f and the z_k with D_k not zero. Each row of a source's J takes one backward pass, which
gives the row for all earlier z_l at once. The Hessian of <d loss / df, f> in z_l is M_ll without its first term. The
product of that Hessian with a vector of ones, less the terms of the later z_k, is D_l. A second product, with a random
vector, shows whether D_l is diagonal.

Botev, Ritter, Barber, "Practical Gauss-Newton optimisation for deep learning", ICML 2017; Dangel, Kunstner, Hennig,
"BackPACK: packing more into backprop", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.network import Network
from methods.factoring.numerics import close, drawn, every, one_hot, slices
from methods.factoring.rows import vjps
from methods.factoring.uses import Use

ROWS = 64  # backward passes at once
OUTPUTS = 256  # entries of the network's output for a sample, beyond which their curvature is not propagated


@dataclass(frozen=True)
class Outputs:
    """A network's outputs, their curvature, and the graph from the affine maps to them."""

    values: Tensor  # f (N, C), with its graph
    curvature: Tensor  # d^2 loss / df^2 (N, C, C)
    maps: list[Tensor]  # z_l (N, S, p) for each use, with its graph
    shifts: list[Tensor]  # of these, all zero, in the graph of `values`
    gradients: list[Tensor]  # (N, S, p) of <d loss / df, f> in each shift, with its graph


def outputs_of(network: Network, fixed: set[str], uses: Sequence[Use]) -> Outputs | None:
    """The network's outputs, for the uses of the parameters `fixed`; None where they are no source of the curvature.

    They are a source where three conditions hold: they are a tensor (N, ...) of at most `OUTPUTS` entries a sample; the
    loss depends on the affine maps through them alone; the criterion does not mix samples.
    """
    if not uses:
        return None
    outputs, maps, shifts = network.traced_outputs(fixed)
    samples = len(uses[0].gradient)
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != (samples,) or len(maps) != len(uses):
        return None
    leaf = outputs.detach().requires_grad_()
    loss = network.criterion(leaf)
    if not loss.requires_grad:
        return None
    (slope,) = torch.autograd.grad(loss, leaf, create_graph=True, materialize_grads=True)
    gradients = torch.autograd.grad(outputs, shifts, slope.detach(), create_graph=True, materialize_grads=True)
    through_outputs = every(close(x - use.gradient, use.gradient) for x, use in zip(gradients, uses, strict=True))
    slope = slope.reshape(samples, -1)  # d loss / df (N, C)
    if slope.shape[1] > OUTPUTS or not through_outputs:
        return None
    curvature = _criterion_curvature(leaf, slope)
    if curvature is None:
        return None
    return Outputs(outputs.reshape(samples, -1), curvature, maps, shifts, list(gradients))


def _criterion_curvature(outputs: Tensor, slope: Tensor) -> Tensor | None:
    """The derivative (N, C, C) of the slope (N, C) in the outputs (N, ...); None where the criterion mixes samples.

    Unit cotangents give the rows, each for all samples at once. What a random cotangent for each sample gives must be
    the same combination of the rows, unless samples are mixed.
    """
    random = drawn(slope)
    cotangents = torch.cat([_units(slope, slice(0, slope.shape[1])), random[None]])
    (products,) = vjps([slope], [outputs], [cotangents])  # (C + 1, N, ...)
    products = products.reshape(len(cotangents), *slope.shape).transpose(0, 1)  # (N, C + 1, C)
    curvature, of_random = products[:, :-1], products[:, -1]
    explained = torch.einsum("nc,ncd->nd", random, curvature)
    return curvature if close(explained - of_random, of_random) else None


def write_diagonal(
    outputs: Outputs, uses: Sequence[Use], vector: Tensor, result: Tensor, product: Tensor
) -> Sequence[Use]:
    """Write into `result` (P,) the diagonal of the uses' parameters, from the last use to the first.

    Adds to `product` (P,) what the diagonal blocks of these uses make of `vector` (P,). Stops before a use whose
    samples are mixed, or whose D is not diagonal, and after one by entries with a D of its own, since its shifts are no
    outputs of an operation. Returns the uses that are left, which are the first ones.
    """
    blocks = [_Block(use, vector) for use in uses]
    explained = [[flag] for flag in _propagate(outputs.values, outputs.curvature, outputs.shifts, blocks)]
    for place in reversed(range(len(uses))):
        block, shift = blocks[place], outputs.shifts[place]
        # The Hessian of <d loss / df, f> times the probes, and the part of it that later sources explain.
        ((of_ones, of_random),) = vjps([outputs.gradients[place]], [shift], [block.probes])
        explained_ones, explained_random = block.explained
        own = of_ones - explained_ones  # D_l (N, S, p), if it is diagonal
        own_of_random = of_random - explained_random
        is_diagonal = close(own_of_random - own * block.probes[1], of_random)
        is_right, is_zero = torch.stack([every([*explained[place], is_diagonal]), close(own, of_ones)]).tolist()
        if not is_right:
            return uses[: place + 1]
        block.write(own, result, product)
        if place and not is_zero and uses[place].by_entries:
            return uses[:place]
        if place and not is_zero:
            source, curvature = outputs.maps[place].flatten(1), own.flatten(1)
            flags = _propagate(source, curvature, outputs.shifts[:place], blocks[:place])
            for before, flag in enumerate(flags):
                explained[before].append(flag)
    return []


class _Block:
    """The diagonal block of one use: sums over the sources k behind it of J^T A J, with their curvature A."""

    def __init__(self, use: Use, vector: Tensor) -> None:
        zeros = torch.zeros_like(use.gradient)
        self.probes = torch.stack([torch.ones_like(zeros), drawn(zeros)])  # (2, N, S, p)
        self._use = use
        self._direction = use.outputs(vector)  # (N, S, p), how the vector moves the outputs
        self._product = torch.zeros_like(_column(zeros))  # (N, p S, 1), the sum times the direction
        self._probe_columns = self.probes.permute(1, 3, 2, 0).flatten(1, 2)  # (N, p S, 2)
        self._explained = torch.zeros_like(self._probe_columns)  # the sum of diagonal sources, times the probes
        # The diagonal of the sum. Without positions (S = 1) it is that in the outputs; the parameters' follows from it.
        self._of_outputs = zeros.clone()  # (N, S, p)
        self._of_parts = [zeros.new_zeros(zeros.shape[2], part.features.shape[2]) for part in use.parts]  # (p, q)

    def add(self, rows: Tensor, curvature: Tensor) -> None:
        """Add J^T A J, for rows J (c, N, S, p) of a source and its curvature A, dense (N, c, c) or diagonal (N, c)."""
        jacobian = rows.permute(1, 0, 3, 2).contiguous()  # (N, c, p, S)
        flat = jacobian.flatten(2)  # (N, c, p S)
        weighted = _times(curvature, flat)  # A J
        self._add_diagonal(jacobian, weighted.view(jacobian.shape))
        moved = torch.bmm(flat, _column(self._direction))  # (N, c, 1)
        self._product += torch.bmm(flat.mT, _times(curvature, moved))
        if not _is_dense(curvature):
            self._explained += torch.bmm(weighted.mT, torch.bmm(flat, self._probe_columns))

    def _add_diagonal(self, jacobian: Tensor, weighted: Tensor) -> None:
        """Add the diagonal of J^T A J, for J and A J (N, c, p, S)."""
        if jacobian.shape[3] == 1:
            self._of_outputs += (jacobian * weighted).sum(dim=1).mT
            return
        for of_part, part in zip(self._of_parts, self._use.parts, strict=True):
            own = torch.bmm(jacobian.flatten(1, 2), part.features)  # (N, c p, q), rows of the parameters' Jacobian
            other = torch.bmm(weighted.flatten(1, 2), part.features)
            of_part += (own * other).view(*jacobian.shape[:3], -1).sum(dim=(0, 1))

    @property
    def explained(self) -> Tensor:
        """The products (2, N, S, p) of the diagonal sources' J^T D J with the probes."""
        _, samples, positions, outputs = self.probes.shape
        return self._explained.view(samples, outputs, positions, 2).permute(3, 0, 2, 1)

    def write(self, own: Tensor, result: Tensor, product: Tensor) -> None:
        """Write the diagonal into `result` (P,), and add the block's product with the vector to `product` (P,).

        `own` (N, S, p) is D_l, which joins the sum.
        """
        _, samples, positions, outputs = self.probes.shape
        moved = self._product.view(samples, outputs, positions).mT + own * self._direction
        self._use.add_transposed(moved, product)
        of_outputs = (self._of_outputs + own).flatten(0, 1)  # (N S, p)
        for of_part, part in zip(self._of_parts, self._use.parts, strict=True):
            of_part += of_outputs.T @ part.features.flatten(0, 1).square()
            self._use.entries(part, result).copy_(of_part)


def _propagate(source: Tensor, curvature: Tensor, shifts: Sequence[Tensor], blocks: Sequence[_Block]) -> list[Tensor]:
    """Add the contributions of a source (N, C) with curvature (N, C, C), or diagonal (N, C), to the blocks before it.

    Returns for each block whether () the source keeps its samples apart. A random cotangent for each sample tests that:
    what it gives must be what the rows for all samples at once explain.
    """
    random, count = drawn(source), source.shape[1]
    explained = [torch.zeros_like(shift) for shift in shifts]
    products: list[Tensor] = []  # (c, N, S, p) of each block
    for columns in slices(0, count, count if _is_dense(curvature) else ROWS):
        units, last = _units(source, columns), columns.stop == count
        products = vjps([source], shifts, [torch.cat([units, random[None]]) if last else units])
        for place, found in enumerate(products):
            rows = found[: len(units)]
            blocks[place].add(rows, curvature[:, columns])
            explained[place] += torch.einsum("nc,cnsp->nsp", random[:, columns], rows)
    return [close(found[-1] - of_rows, found[-1]) for found, of_rows in zip(products, explained, strict=True)]


def _is_dense(curvature: Tensor) -> bool:
    """Whether the curvature of a source is (N, c, c), not diagonal (N, c)."""
    return curvature.dim() == 3


def _times(curvature: Tensor, x: Tensor) -> Tensor:
    """A source's curvature times x (N, c, k)."""
    return torch.bmm(curvature, x) if _is_dense(curvature) else curvature[:, :, None] * x


def _column(x: Tensor) -> Tensor:
    """Outputs (N, S, p) as a column (N, p S, 1) for each sample."""
    return x.mT.flatten(1)[..., None]


def _units(like: Tensor, columns: slice) -> Tensor:
    """Unit vectors (c, N, C) of some columns, for all samples at once."""
    return one_hot(columns, like.shape[1], like)[:, None].expand(-1, len(like), -1)
