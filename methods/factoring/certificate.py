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

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from methods.factoring.network import Network

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
        if not loss.isfinite():
            raise CertificateError(f"the loss is {float(loss.detach())}: no Hessian can be checked at this point")
        if not loss.requires_grad:
            raise ValueError(
                "the loss does not depend on the model's trainable parameters: is it computed under no_grad, from "
                ".detach() or from numbers (.item(), torch.tensor)?"
            )
        gradients = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        if network.hooked:
            self._check_hooks(params, gradients)
        self._gradients = dict(zip(network.params, gradients, strict=True))
        self.value = loss.detach()
        self.gradient = torch.cat([gradient.flatten() for gradient in gradients])  # (P,), with its graph
        generator = torch.Generator().manual_seed(1)
        normal = torch.randn(network.theta.shape, generator=generator, dtype=torch.float64)
        self.vector = normal.to(network.theta)  # (P,)

    def _check_hooks(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Raise NotImplementedError where hooks change the gradient, so that it is not the loss's."""
        with self._network.unhooked():
            loss = self._network.plain(hooks=False)
            plain = torch.autograd.grad(loss, params, materialize_grads=True)
        distance = sum(_norm(one - two) for one, two in zip(gradients, plain, strict=True))
        if not distance <= TOLERANCE[params[0].dtype] * sum(map(_norm, plain)):
            raise NotImplementedError(
                "hooks on parameters, modules or activations change the gradient, which is then not that of the loss: "
                "remove them"
            )

    def has_value(self, loss: Tensor) -> bool:
        """Whether a loss () is the plain one, up to rounding errors of terms that may cancel in it."""
        terms = max(abs(float(self.value)), _norm(self.gradient.detach()) * _norm(self._network.theta))
        return abs(float(loss.detach()) - float(self.value)) <= TOLERANCE[self._network.precision] * terms

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
        if self._is_zero(found, vector) and self._is_zero(true, vector):
            return {}
        noise = self._noise(vector, true, product)
        if _norm(noise) > LOOSEST * _norm(true):
            raise CertificateError(
                f"rounding errors are {_norm(noise) / (_norm(true) or 1.0):.0%} of what double backward through the "
                "plain loss gives, so that no result can be checked: compute in float64"
            )
        return self.far(found, true, noise)

    def far(self, found: Tensor, true: Tensor, noise: Tensor | None = None) -> dict[str, float]:
        """The parameters in whose rows `found` (P,) is not `true` (P,), and by which relative distance.

        `noise` (P,) is the measured rounding error of `true`, where it is known.
        """
        found, true = found.double(), true.double()
        spans, tolerance = self._network.span, TOLERANCE[self._network.precision]
        whole = float(true.norm())
        share = tolerance * whole / len(spans) ** 0.5  # if each parameter keeps to it, all together keep the tolerance
        failed = {}
        for name, span in spans.items():
            size, distance = float(true[span].norm()), float((found[span] - true[span]).norm())
            allowed = min(PARAMETER * tolerance * size + ROUNDING * tolerance * whole, share)
            if noise is not None:
                allowed = max(allowed, min(NOISE * _norm(noise[span]), LOOSEST * whole))
            if not distance <= allowed:
                failed[name] = distance / size if size else distance
        return failed

    def check_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise CertificateError unless u . H w is w . H u, for a vector w (P,), its product H w (P,) and a random u.

        H u comes from another evaluation of the loss, so that a gradient which is drawn at random is noticed too.
        """
        again = Certificate(self._network)
        other = again.product(self.vector)
        if self._is_zero(product, vector) and self._is_zero(other, self.vector):
            return
        one, two = _dot(self.vector, product), _dot(vector, other)
        size = _norm(product) + ROUNDING * _norm(vector) * _norm(other)
        allowed = TOLERANCE[self._network.precision] * size
        if abs(one - two) > allowed:
            noise = self._noise(vector, product, self.product) + self._noise(self.vector, other, again.product)
            noisy = NOISE * _norm(noise) * (_norm(vector) + _norm(self.vector))
            allowed = max(allowed, min(noisy, LOOSEST * _norm(product) * _norm(self.vector)))
        if not abs(one - two) <= allowed:
            raise CertificateError(
                f"the second derivative of the loss is not symmetric: u . H w is {one:.6g} and w . H u {two:.6g} for "
                "two vectors. Possible causes: the gradient differs from call to call, or the backward of a custom "
                "Function is the gradient of another function"
            )

    def _is_zero(self, product: Tensor, vector: Tensor) -> bool:
        """Whether a product (P,) is zero up to rounding errors.

        The terms in it are taken to be as large as the gradient and the loss suggest.
        """
        scale = _norm(self._network.theta) or 1.0
        steps = _norm(vector) / scale
        terms = _norm(self.gradient.detach()) * steps + abs(float(self.value)) * steps / scale
        return _norm(product) <= NOISE * torch.finfo(self._network.precision).eps * terms

    def _noise(self, vector: Tensor, true: Tensor, product: Product) -> Tensor:
        """The rounding error (P,) of a product: how far the product of a sum is from the sum of the products."""
        part = self.vector.roll(1)
        return (true - product(vector - part) - product(part)).abs()


def _norm(x: Tensor) -> float:
    """The norm in float64, where squares of float32 neither overflow nor vanish."""
    return float(x.double().norm())


def _dot(x: Tensor, y: Tensor) -> float:
    return float(x.double() @ y.double())
