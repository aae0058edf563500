"""Compares a result with double backward through the plain loss before it is returned.

The plain loss is `criterion(model(inputs), targets)`, without the modes and transforms that a fast derivation needs.
One backward pass through its gradient's graph gives the product H v with a random vector v of normal entries. A result
is compared with this product, parameter by parameter.

For an error E in the result, the comparison sees E v, which is about as large as E whatever E is. An error of relative
size d in the Frobenius norm is missed with a probability of at most about tolerance / d: the probability that a normal
number lies within tolerance / d of zero. In float32 that is one in a thousand for an error of a percent. v comes from a
fixed seed, so that the same call ends the same.

What counts as an error (`Certificate.far`):

- Each parameter's rows are compared on their own, and may be off by a hundred tolerances of their own size. A large
  parameter then does not hide a small one, as long as the small one's rows exceed the rounding errors of the large one.
- Where terms cancel in the loss, a hundred times the measured rounding error of double backward is allowed, but at most
  a percent of the product. Where that rounding error itself exceeds a percent, no result passes.

What the comparison cannot see: a symmetric error of double backward itself (a custom Function whose backward is not the
derivative), and a loss other than the intended one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from methods.factoring.network import Network
from methods.factoring.numerics import drawn, norm, values

# Largest relative distance between two right results: some ten to a thousand times the rounding errors observed.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
PARAMETER = 100  # tolerances that the rows of one parameter may be off, relative to themselves
LOOSEST = 0.01  # of a product: the largest error that rounding errors of double backward excuse
ROUNDING = 0.1  # tolerances of the whole product that any part of it may be off, for terms that cancel in it
NOISE = 100  # multiple of the measured rounding error of double backward that counts as right

Product = Callable[[Tensor], Tensor]  # v (P,) -> H v (P,)


class CertificateError(RuntimeError):
    """No method gave a result that agrees with double backward through the plain loss."""


class FallbackError(RuntimeError):
    """With `fallback="error"`: some parameters would have taken a backward pass for each of their rows."""


class FallbackWarning(UserWarning):
    """A result did not agree with double backward through the plain loss, so that rows were computed instead."""


class Certificate:
    """The plain loss, its gradient with its graph, and a random vector to multiply with the Hessian.

    Raises NotImplementedError for parameters of float16 or bfloat16, in which no comparison tells right from wrong, and
    for hooks that change the gradient; CertificateError for a loss that is not finite; ValueError for a loss that does
    not depend on the parameters; and what torch raises where the loss has no second derivative.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        params = list(network.params.values())
        if params[0].dtype not in (torch.float64, torch.float32):
            raise NotImplementedError(
                f"the parameters are {params[0].dtype}, whose rounding errors hide wrong results: compute in float32, "
                "with model.float() and inputs of that type, and convert the result"
            )
        loss = network.plain()
        if not loss.requires_grad:
            raise ValueError(
                "the loss does not depend on the model's trainable parameters: is it computed under no_grad, from "
                ".detach() or from numbers (.item(), torch.tensor)?"
            )
        gradients = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        self._gradients = dict(zip(network.params, gradients, strict=True))
        self.gradient = torch.cat([gradient.flatten() for gradient in gradients])  # (P,), with its graph
        self.value, self._slope, self._distance = values([loss, norm(self.gradient), norm(network.theta)])
        if not math.isfinite(self.value):
            raise CertificateError(f"the loss is {self.value}: no Hessian can be checked at this point")
        if network.hooked:
            self._check_hooks(params, gradients)
        self.vector = drawn(network.theta, seed=1)  # (P,)

    def _check_hooks(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Raise NotImplementedError where hooks change the gradient, so that it is not the loss's."""
        with self._network.unhooked():
            loss = self._network.plain(hooks=False)
            plain = torch.autograd.grad(loss, params, materialize_grads=True)
        distances = values(norm(one - two) for one, two in zip(gradients, plain, strict=True))
        if not sum(distances) <= TOLERANCE[params[0].dtype] * sum(values(map(norm, plain))):
            raise NotImplementedError(
                "hooks on parameters, modules or activations change the gradient, which is then not that of the loss: "
                "remove them"
            )

    def has_value(self, loss: float) -> bool:
        """Whether a loss is the plain one, up to rounding errors of terms that may cancel in it."""
        terms = max(abs(self.value), self._slope * self._distance)
        return abs(loss - self.value) <= TOLERANCE[self._network.precision] * terms

    def product(self, vector: Tensor, names: Iterable[str] | None = None) -> Tensor:
        """H times `vector` (P,), as (P,).

        With `names` only the block of these parameters on the diagonal is multiplied; the other entries are zero.
        """
        network = self._network
        result = torch.zeros_like(network.theta)
        wanted = network.params.keys() if names is None else set(names)
        chosen = [name for name in network.params if name in wanted]
        varying = [name for name in chosen if self._gradients[name].requires_grad]
        if not varying:
            return result
        gradients = [self._gradients[name] for name in varying]
        cotangents = [vector[network.span[name]].view_as(self._gradients[name]) for name in varying]
        params = [network.params[name] for name in chosen]
        products = torch.autograd.grad(gradients, params, cotangents, retain_graph=True, materialize_grads=True)
        for name, part in zip(chosen, products, strict=True):
            result[network.span[name]] = part.flatten()
        return result

    def failing(self, found: Tensor, product: Product) -> dict[str, float]:
        """As `differing`, for the product with the certificate's own vector."""
        return self.differing(found, self.vector, product(self.vector), product)

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
        if self._are_zero([found, true], [vector, vector]):
            return {}
        noise = self._noise(vector, true, product)
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
        spans, tolerance = self._network.span, TOLERANCE[self._network.precision]
        difference = found.double() - true.double()
        noise = torch.zeros_like(true) if noise is None else noise
        parts = [norm(x[span]) for x in (true, difference, noise) for span in spans.values()]
        whole, *norms = values([norm(true), *parts])
        count = len(spans)
        sizes, distances, noises = norms[:count], norms[count : 2 * count], norms[2 * count :]
        share = tolerance * whole / count**0.5  # if each parameter keeps to it, all together keep the tolerance
        failed = {}
        for name, size, distance, rounding in zip(spans, sizes, distances, noises, strict=True):
            allowed = min(PARAMETER * tolerance * size + ROUNDING * tolerance * whole, share)
            allowed = max(allowed, min(NOISE * rounding, LOOSEST * whole))
            if not distance <= allowed:
                failed[name] = distance / size if size else distance
        return failed

    def check_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise CertificateError unless u . H w is w . H u, for a vector w (P,), its product H w (P,) and a random u.

        H u comes from another evaluation of the loss, so that a gradient which is drawn at random is noticed too.
        """
        again = Certificate(self._network)
        other = again.product(self.vector)
        if self._are_zero([product, other], [vector, self.vector]):
            return
        one, two = values([_dot(self.vector, product), _dot(vector, other)])
        of_product, of_other, of_vector, of_own = values(map(norm, (product, other, vector, self.vector)))
        allowed = TOLERANCE[self._network.precision] * (of_product + ROUNDING * of_vector * of_other)
        if abs(one - two) > allowed:
            noise = self._noise(vector, product, self.product) + self._noise(self.vector, other, again.product)
            noisy = NOISE * float(norm(noise)) * (of_vector + of_own)
            allowed = max(allowed, min(noisy, LOOSEST * of_product * of_own))
        if not abs(one - two) <= allowed:
            raise CertificateError(
                f"the second derivative of the loss is not symmetric: u . H w is {one:.6g} and w . H u {two:.6g} for "
                "two vectors. Possible causes: the gradient differs from call to call, or the backward of a custom "
                "Function is the gradient of another function"
            )

    def _are_zero(self, products: Sequence[Tensor], vectors: Sequence[Tensor]) -> bool:
        """Whether products (P,) with as many vectors (P,) are zero up to rounding errors.

        The terms in them are taken to be as large as the gradient and the loss suggest.
        """
        scale = self._distance or 1.0
        of_vector_of_one = self._slope / scale + abs(self.value) / scale**2
        allowed = NOISE * torch.finfo(self._network.precision).eps * of_vector_of_one
        sizes = values(map(norm, [*products, *vectors]))
        pairs = zip(sizes[: len(products)], sizes[len(products) :], strict=True)
        return all(of_product <= allowed * of_vector for of_product, of_vector in pairs)

    def _noise(self, vector: Tensor, true: Tensor, product: Product) -> Tensor:
        """The rounding error (P,) of a product: how far the product of a sum is from the sum of the products."""
        part = self.vector.roll(1)
        return (true - product(vector - part) - product(part)).abs()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x.double() @ y.double()
