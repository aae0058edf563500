"""Each sample's own Hessian in a network's parameters, by the factors of `methods.factored`, not summed over samples.

With the symbols of `methods.factored`, each sample n has between the parameters of two affine maps l and k

    H[n,(l,i,j),(k,p,q)] = sum_{s,t} a_l[n,s,j] (M_lk[n,(s,i),(t,p)] a_k[n,t,q] + g_k[n,t,p] J_kl[n,(t,q),(s,i)])

One unit shift, given to all samples at once, yields M and J of all. Computed is a loss that depends on the parameters
through affine maps of the samples alone.

Before a result is returned, its sum over samples with random weights is multiplied by a random vector, and compared
with double backward through the weighted loss. `methods.factoring.certificate` says which errors that catches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from methods import calls
from methods.factoring.certificate import Certificate
from methods.factoring.comparison import CertificateError, Product
from methods.factoring.hessian import pairs, planned_segments
from methods.factoring.network import Network
from methods.factoring.numerics import drawn
from methods.factoring.pairs import Pair
from methods.factoring.plan import MIXED, Plan, planned
from methods.factoring.precision import full_precision
from methods.factoring.shifts import Shifts, all_outputs, check
from methods.factoring.uses import Part, Use, uses_of

Criterion = Callable[..., Tensor] | None

MEMORY = 2**28  # bytes of the derivatives along shifts that are held at once
AT_ONCE = 64  # shifts of the outputs of a layer, for a diagonal


def hessian(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, points: Tensor) -> Tensor:
    """Each sample's Hessian (N, P, P) in the trainable parameters, in `named_parameters()` order.

    A sample's loss is `criterion` of its own output, as a batch of one. `points` (N, P) are the parameters N times; the
    derivatives are taken at those that the model has. Raises NotImplementedError where parameters do not enter through
    affine maps alone, samples depend on each other, or the outputs are no tensor (N, ...); CertificateError where the
    comparison fails; other errors as `methods.factored.hessian`.
    """
    each = _EachSample(model, criterion, inputs, targets, points)
    result = points.new_zeros(*points.shape, points.shape[1])

    def write(plan: Plan, certificate: Certificate) -> None:
        for pair in pairs(each.network, plan, certificate, MEMORY, planned_segments(each.network, plan, MEMORY)):
            _write(result, pair)

    each.compute(write)
    each.compare(lambda vector: each.weights @ (result @ vector), lambda certificate: certificate.product)
    return result


def diagonal(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, points: Tensor) -> Tensor:
    """The diagonals (N, P) of these Hessians, without blocks between layers; errors as `hessian`.

    What is compared is the product of the layers' own blocks. Parameters of several layers are refused.
    """
    each = _EachSample(model, criterion, inputs, targets, points)
    vector = drawn(points[0], seed=1)
    result, product = torch.zeros_like(points), torch.zeros_like(vector)
    blocks: list[frozenset[str]] = []

    def write(plan: Plan, certificate: Certificate) -> None:
        uses = uses_of(each.network, plan.affine)
        plan.refuse({name for use in uses if use.tied for name in use.names}, "it enters several affine maps")
        found = []
        for index, use in enumerate(uses):
            shifts = Shifts(each.network, plan.affine, index, [use], certificate)
            moved = _write_diagonal(result, use, shifts, use.outputs(vector))
            use.add_transposed(each.weights[:, None, None] * moved, product)
            found.append(shifts.found())
            blocks.append(use.names)
        for use, mixed in zip(uses, check(found, certificate, each.network.precision), strict=True):
            plan.refuse(use.names if mixed else (), MIXED)

    each.compute(write)
    each.compare(lambda _: product, lambda certificate: partial(_of_blocks, certificate, blocks), vector)
    return result


def trace(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, points: Tensor) -> Tensor:
    """The traces (N,) of these Hessians; errors as `diagonal`."""
    return diagonal(model, criterion, inputs, targets, points).sum(1)


class _EachSample:
    """A network with the sum of its samples' losses, and random weights of the samples."""

    def __init__(self, model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, points: Tensor) -> None:
        self.weights = drawn(points[:, 0])
        completed = calls.completed(criterion, targets)
        self.network = Network(model, _Sum(completed, torch.ones_like(self.weights)), inputs, targets)
        self._weighted = Network(model, _Sum(completed, self.weights), inputs, targets)

    def compute(self, write: Callable[[Plan, Certificate], None]) -> None:
        """Let `write` compute the matrix products. Raises NotImplementedError where parameters take other ways."""
        with full_precision():
            certificate = Certificate(self.network)

            def without_rows(plan: Plan) -> None:
                plan.cheap_rows.clear()  # shifts are taken also where rows of a sum would cost less
                write(plan, certificate)

            plan = planned(self.network, certificate, without_rows, {})
        reasons = plan.reasons | dict.fromkeys(plan.penalties, "the loss has a penalty on it")
        if reasons:
            listed = "; ".join(f"{name}: {reasons[name]}" for name in self.network.params if name in reasons)
            raise NotImplementedError(
                f"each sample's own Hessian is computed by matrix products over affine layers, but not of {listed}"
            )

    def compare(self, found: Product, true_of: Callable[[Certificate], Product], vector: Tensor | None = None) -> None:
        """Raise CertificateError unless the weighted sum's product `found` is that of the weighted loss."""
        with full_precision():
            certificate = Certificate(self._weighted)
            vector = certificate.vector if vector is None else vector
            product = true_of(certificate)
            failed = certificate.comparison.differing(found(vector), vector, product(vector), product)
        if failed:
            listed = ", ".join(f"{name} (off by {distance:.1e})" for name, distance in failed.items())
            raise CertificateError(f"the samples' second derivatives are not those of double backward, in {listed}")


class _Sum:
    """The sum over samples, with weights (N,), of the criterion of each sample's own output as a batch of one."""

    def __init__(self, criterion: Callable[..., Tensor], weights: Tensor) -> None:
        self._criterion, self._weights = criterion, weights

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        count = len(self._weights)
        if not isinstance(outputs, Tensor) or outputs.shape[:1] != (count,):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise NotImplementedError(f"the model's outputs must be one tensor ({count}, ...); found {found}")
        dims = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) and leaf.dim() else None, targets)

        def of_one(output: Tensor, target: Any) -> Tensor:
            alone = tree_map(lambda leaf, dim: leaf if dim is None else leaf[None], target, dims)
            return self._criterion(output[None], alone).reshape(())

        return torch.func.vmap(of_one, in_dims=(0, dims))(outputs, targets) @ self._weights


def _write(result: Tensor, pair: Pair) -> None:
    """Add the block of two calls to each sample's Hessian (N, P, P), and its mirror image where the calls are two."""
    use, other = pair.use, pair.other
    outputs = slice(pair.first, pair.first + len(pair.curvature))
    for x in use.parts:
        for y in other.parts:
            block = torch.einsum("nsj,isntp,ntq->nijpq", x.features, pair.curvature, y.features)
            if pair.jacobian is not None and y.varies:
                block += torch.einsum("nsj,ntp,isntq->nijpq", x.features, other.gradient, pair.jacobian)
            _tile(result, use, x, other, y)[:, outputs] += block
            if other is not use:
                _tile(result, other, y, use, x)[:, :, :, outputs] += block.permute(0, 3, 4, 1, 2)


def _tile(result: Tensor, use: Use, x: Part, other: Use, y: Part) -> Tensor:
    """The block of two parts as a view (N, i, j, p, q)."""
    (rows, first), (columns, second) = _place(use, x), _place(other, y)
    tile = result[:, rows, columns].unflatten(2, second).unflatten(1, first)
    tile = tile.transpose(1, 2) if x.transposed else tile
    return tile.transpose(3, 4) if y.transposed else tile


def _place(use: Use, part: Part) -> tuple[slice, tuple[int, int]]:
    """Where a part's entries are in theta, and the shape in which they are stored."""
    outputs, width = use.gradient.shape[2], part.features.shape[2]
    shape = (width, outputs) if part.transposed else (outputs, width)
    return slice(part.start, part.start + outputs * width), shape


def _write_diagonal(result: Tensor, use: Use, shifts: Shifts, direction: Tensor) -> Tensor:
    """Write the diagonals of one call's own blocks into `result` (N, P); returns M times a direction (N, S, p)."""
    moved = torch.empty_like(use.gradient)
    for outputs in all_outputs(use, max(AT_ONCE // use.gradient.shape[1], 1)):
        (curvature,), _ = shifts.along(outputs)  # M (i, S, N, T, p)
        moved[:, :, outputs] = torch.einsum("isntp,ntp->nsi", curvature, direction)
        own = curvature[..., outputs].diagonal(dim1=0, dim2=4)  # (S, N, T, i), where i is p
        for part in use.parts:
            entries = torch.einsum("nsj,snti,ntj->nij", part.features, own, part.features)
            place, shape = _place(use, part)
            tile = result[:, place].unflatten(1, shape)
            (tile.transpose(1, 2) if part.transposed else tile)[:, outputs] = entries
    return moved


def _of_blocks(certificate: Certificate, blocks: Iterable[frozenset[str]], vector: Tensor) -> Tensor:
    """The product of the blocks of these parameters with a vector (P,)."""
    return sum((certificate.product(vector, names) for names in blocks), torch.zeros_like(vector))
