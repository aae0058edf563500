"""Compares a result with double backward through the plain loss before it is returned.

The plain loss is `criterion(model(inputs), targets)`, without the modes and transforms that a fast derivation needs.
One backward pass through its gradient's graph gives the product H v with a random vector v of normal entries. A result
is compared with this product, parameter by parameter.

For an error E in the result, the comparison sees E v, which is about as large as E whatever E is. An error of relative
size d in the Frobenius norm is missed with a probability of at most about tolerance / d: the probability that a normal
number lies within tolerance / d of zero. In float32 that is one in a thousand for an error of a percent. v comes from a
fixed seed, so that the same call ends the same.

`methods.factoring.comparison` says what counts as an error.

What the comparison cannot see: a symmetric error of double backward itself (a custom Function whose backward is not the
derivative), and a loss other than the intended one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from methods.factoring.comparison import LOOSEST, NOISE, ROUNDING, TOLERANCE, CertificateError, Comparison, Product
from methods.factoring.network import Network
from methods.factoring.numerics import drawn, norm, values


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
        self.gradients = dict(zip(network.params, gradients, strict=True))  # of each parameter, with their graph
        self.gradient = torch.cat([gradient.flatten() for gradient in gradients])  # (P,), with its graph
        self.value, self._slope, self._distance = values([loss, norm(self.gradient.detach()), norm(network.theta)])
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
        params, gradients = self._network.params, self.gradients
        chosen = params.keys() if names is None else set(names)
        parts = dict(zip(params, vector.split([param.numel() for param in params.values()]), strict=True))
        varying = [name for name in params if name in chosen and gradients[name].requires_grad]
        if not varying:
            return torch.zeros_like(vector)
        products = torch.autograd.grad(
            [gradients[name] for name in varying],
            [param for name, param in params.items() if name in chosen],
            [parts[name].view_as(gradients[name]) for name in varying],
            retain_graph=True,
            materialize_grads=True,
        )
        of_chosen = iter(products)
        return torch.cat(
            [next(of_chosen).flatten() if name in chosen else torch.zeros_like(part) for name, part in parts.items()]
        )

    @property
    def comparison(self) -> Comparison:
        """How products are compared; their terms are taken to be as large as the gradient and the loss suggest."""
        scale = self._distance or 1.0
        terms = self._slope / scale + abs(self.value) / scale**2
        return Comparison(self._network.span, self._network.precision, terms, self.vector)

    def failing(self, found: Tensor, product: Product) -> dict[str, float]:
        """The parameters in whose rows `found` (P,) is not the product with the certificate's vector, and how far."""
        return self.comparison.differing(found, self.vector, product(self.vector), product)

    def check_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise CertificateError unless u . H w is w . H u, for a vector w (P,), its product H w (P,) and a random u.

        H u comes from another evaluation of the loss, so that a gradient which is drawn at random is noticed too.
        """
        again, comparison = Certificate(self._network), self.comparison
        other = again.product(self.vector)
        if comparison.are_zero([product, other], [vector, self.vector]):
            return
        one, two = values([_dot(self.vector, product), _dot(vector, other)])
        of_product, of_other, of_vector, of_own = values(map(norm, (product, other, vector, self.vector)))
        allowed = TOLERANCE[self._network.precision] * (of_product + ROUNDING * of_vector * of_other)
        if abs(one - two) > allowed:
            noise = comparison.noise(vector, product, self.product)
            noise += comparison.noise(self.vector, other, again.product)
            noisy = NOISE * float(norm(noise)) * (of_vector + of_own)
            allowed = max(allowed, min(noisy, LOOSEST * of_product * of_own))
        if not abs(one - two) <= allowed:
            raise CertificateError(
                f"the second derivative of the loss is not symmetric: u . H w is {one:.6g} and w . H u {two:.6g} for "
                "two vectors. Possible causes: the gradient differs from call to call, or the backward of a custom "
                "Function is the gradient of another function"
            )


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x.double() @ y.double()
