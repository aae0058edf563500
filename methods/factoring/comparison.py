"""Whether two products of a Hessian with a vector are the same, parameter by parameter, up to rounding errors.

What counts as an error (`Comparison.far`):

- Each parameter's rows are compared on their own, and may be off by a hundred tolerances of their own size. A large
  parameter then does not hide a small one, as long as the small one's rows exceed the rounding errors of the large one.
- Where terms cancel in the loss, a hundred times the measured rounding error of double backward is allowed, but at most
  a percent of the product. Where that rounding error itself exceeds a percent, no result passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.factoring.numerics import norm, norms, values

# Largest relative distance between two right results: some ten to a thousand times the rounding errors observed.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
PARAMETER = 100  # tolerances that the rows of one parameter may be off, relative to themselves
LOOSEST = 0.01  # of a product: the largest error that rounding errors of double backward excuse
ROUNDING = 0.1  # tolerances of the whole product that any part of it may be off, for terms that cancel in it
NOISE = 100  # multiple of the measured rounding error of double backward that counts as right

Product = Callable[[Tensor], Tensor]  # v (P,) -> H v (P,)


class CertificateError(RuntimeError):
    """No method gave a result that agrees with double backward through the plain loss."""


@dataclass(frozen=True)
class Comparison:
    """What decides whether two products (P,) with the Hessian of a loss are the same."""

    span: Mapping[str, slice]  # where each parameter's entries are
    precision: torch.dtype  # the lowest between the parameters and the loss
    terms: float  # about how large the terms are that a product with a vector of norm one adds up
    probe: Tensor  # (P,) random

    def differing(self, found: Tensor, vector: Tensor, true: Tensor, product: Product) -> dict[str, float]:
        """The parameters in whose rows `found` (P,) differs from `true` (P,), and by which relative distance.

        `true` is `product(vector)`; rounding errors are measured by more calls of `product`. Raises CertificateError
        where `true` is not finite, or is little more than rounding errors.
        """
        if not true.isfinite().all():
            raise CertificateError(
                f"double backward through the plain loss gives {int((~true.isfinite()).sum())} of {len(true)} entries "
                "that are not finite: no Hessian can be checked at this point"
            )
        if not self.far(found, true):
            return {}
        if self.are_zero([found, true], [vector, vector]):
            return {}
        noise = self.noise(vector, true, product)
        error, size = values([norm(noise), norm(true)])
        if error > LOOSEST * size:
            raise CertificateError(
                f"rounding errors are {error / (size or 1.0):.0%} of what double backward through the plain loss "
                "gives, so that no result can be checked: compute in float64"
            )
        return self.far(found, true, noise)

    def far(self, found: Tensor, true: Tensor, noise: Tensor | None = None) -> dict[str, float]:
        """The parameters in whose rows `found` (P,) is not `true` (P,), and by which relative distance.

        `noise` (P,) is the measured rounding error of `true`, where it is known.
        """
        spans, tolerance = self.span, TOLERANCE[self.precision]
        true = true.double()
        compared = [true, found.double() - true, *([] if noise is None else [noise])]
        parts = [x[span] for x in compared for span in spans.values()]
        whole, *found_norms = values(norms([true, *parts]))
        count = len(spans)
        sizes, distances = found_norms[:count], found_norms[count : 2 * count]
        noises = found_norms[2 * count :] or [0.0] * count
        share = tolerance * whole / count**0.5  # if each parameter keeps to it, all together keep the tolerance
        failed = {}
        for name, size, distance, rounding in zip(spans, sizes, distances, noises, strict=True):
            allowed = min(PARAMETER * tolerance * size + ROUNDING * tolerance * whole, share)
            allowed = max(allowed, min(NOISE * rounding, LOOSEST * whole))
            if not distance <= allowed:
                failed[name] = distance / size if size else distance
        return failed

    def are_zero(self, products: Sequence[Tensor], vectors: Sequence[Tensor]) -> bool:
        """Whether products (P,) with as many vectors (P,) are zero up to rounding errors."""
        allowed = NOISE * torch.finfo(self.precision).eps * self.terms
        sizes = values(map(norm, [*products, *vectors]))
        pairs = zip(sizes[: len(products)], sizes[len(products) :], strict=True)
        return all(of_product <= allowed * of_vector for of_product, of_vector in pairs)

    def noise(self, vector: Tensor, true: Tensor, product: Product) -> Tensor:
        """The rounding error (P,) of a product: how far the product of a sum is from the sum of the products."""
        part = self.probe.roll(1)
        return (true - product(vector - part) - product(part)).abs()
