"""Is a result right? It is compared with double backward through the plain loss before it is returned.

The plain loss is `criterion(model(inputs), targets)`, without the modes and transforms that a fast derivation needs.
Its gradient's graph gives the product H v with a random vector v of normal entries by one backward pass, and a result
is compared with that, parameter by parameter.

Of an error E in the result, E v is seen. Its size is like |E| whatever E is: an error of the relative size d in the
Frobenius norm goes unseen with a probability of about tolerance / d at the most, that of a normal number within
tolerance / d of zero: in float32 one in a thousand for an error of a percent. v is drawn from a fixed seed, so that the
same call ends the same. The rows of one parameter are compared with these rows alone, up to a hundred tolerances, so
that a large parameter does not hide a small one, as long as the small one's rows are above rounding errors of the large
one's. Where terms cancel in the loss, a hundred times the rounding error of double backward, as it was measured, is
allowed, but never more than a percent; where that error is itself a percent, no result passes.

What cannot be seen: an error of double backward itself (a custom Function whose backward is no derivative, but
symmetric), and a loss that is not the one which was meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.affine import Network

# Largest relative distance between two right results: some ten to a thousand times the rounding errors seen.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
PARAMETER = 100  # tolerances that the rows of one parameter may be off, relative to themselves
LOOSEST = 0.01  # of a product: what rounding errors of double backward may excuse
ROUNDING = 0.1  # tolerances of the whole product that any part of it may be off, for terms that cancel in it
NOISE = 100  # times the rounding error of double backward itself, as it was measured, that count as right


class CertificateError(RuntimeError):
    """No way led to a result that agrees with double backward through the plain loss."""


class FallbackError(RuntimeError):
    """With `fallback="error"`: some parameters would have taken a backward pass for each of their rows."""


class FallbackWarning(UserWarning):
    """A result did not agree with double backward through the plain loss, so that rows were taken instead."""


class Certificate:
    """The plain loss, its gradient's graph, and a random vector to multiply with the Hessian.

    Raises NotImplementedError for parameters of float16 or bfloat16, in which no comparison tells right from wrong,
    and what torch raises where the loss has no second derivative.
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
        self._gradient = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        if network.hooked:
            self._check_hooks(params)
        self.value = loss.detach()
        self.gradient = torch.cat([slope.flatten() for slope in self._gradient])  # (P,), with its graph
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randn(network.theta.shape, generator=generator, dtype=torch.float64)
        self.vector = drawn.to(network.theta)  # (P,)

    def _check_hooks(self, params: Sequence[Tensor]) -> None:
        """Raise NotImplementedError where hooks change the gradient, which is then not the loss's."""
        with self._network.unhooked():
            loss = self._network.plain(hooks=False)
            plain = torch.autograd.grad(loss, params, materialize_grads=True)
        distance = sum(_norm(one - two) for one, two in zip(self._gradient, plain, strict=True))
        if not distance <= TOLERANCE[params[0].dtype] * sum(map(_norm, plain)):
            raise NotImplementedError(
                "hooks on parameters, modules or activations change the gradient, which is then not that of the loss: "
                "remove them"
            )

    def has_value(self, loss: Tensor) -> bool:
        """Whether a loss is the plain one, up to rounding errors of terms that may cancel in it."""
        terms = max(abs(float(self.value)), _norm(self.gradient.detach()) * _norm(self._network.theta))
        return abs(float(loss.detach()) - float(self.value)) <= TOLERANCE[self._network.precision] * terms

    def product(self, vector: Tensor, names: Iterable[str] | None = None) -> Tensor:
        """H times `vector` (P,), as (P,); with `names`, of their block on the diagonal alone, and zero elsewhere."""
        network = self._network
        chosen = list(network.params) if names is None else [name for name in network.params if name in set(names)]
        graph = dict(zip(network.params, self._gradient, strict=True))
        moved = [name for name in chosen if graph[name].requires_grad]
        result = torch.zeros_like(network.theta)
        if moved:
            slopes = [graph[name] for name in moved]
            cotangents = [vector[network.span[name]].view_as(graph[name]) for name in moved]
            params = [network.params[name] for name in chosen]
            found = torch.autograd.grad(slopes, params, cotangents, retain_graph=True, materialize_grads=True)
            for name, part in zip(chosen, found, strict=True):
                result[network.span[name]] = part.flatten()
        return result

    def failing(self, found: Tensor, product: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The parameters in whose rows `found` (P,) is not `product(self.vector)`, with their relative distance."""
        true = product(self.vector)
        return self.differing(found, self.vector, true, product)

    def differing(
        self, found: Tensor, vector: Tensor, true: Tensor, product: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Those in whose rows `found` (P,) is not `true`, the product of `vector` (P,), beyond rounding errors.

        Raises CertificateError where that is not finite, or is little more than rounding errors.
        """
        if not true.isfinite().all():
            raise CertificateError(
                f"double backward through the plain loss gives {int((~true.isfinite()).sum())} of {len(true)} entries "
                "that are not finite: no Hessian can be checked at this point"
            )
        if not self.far(found, true) or (self._is_zero(found, vector) and self._is_zero(true, vector)):
            return {}
        noise = self._noise(vector, true, product)
        if _norm(noise) > LOOSEST * _norm(true):
            raise CertificateError(
                f"rounding errors are {_norm(noise) / (_norm(true) or 1.0):.0%} of what double backward through the "
                "plain loss gives, so that no result can be checked: compute in float64"
            )
        return self.far(found, true, noise)

    def _is_zero(self, product: Tensor, vector: Tensor) -> bool:
        """Whether a product is zero up to rounding of terms as large as the gradient and the loss would have them."""
        steps = _norm(vector) / (_norm(self._network.theta) or 1.0)
        terms = _norm(self.gradient.detach()) * steps + abs(float(self.value)) * steps / (
            _norm(self._network.theta) or 1
        )
        return _norm(product) <= NOISE * torch.finfo(self._network.precision).eps * terms

    def _noise(self, vector: Tensor, true: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """Rounding errors (P,) of a product: they show where that of a sum is not the sum of the products."""
        part = self.vector.roll(1)
        return (true - product(vector - part) - product(part)).abs()

    def check_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise CertificateError unless u . H w is w . H u, for a vector w (P,), its product and a random u.

        H u is taken from another evaluation of the loss, so that a gradient which is drawn at random is seen too.
        """
        again = Certificate(self._network)
        other = again.product(self.vector)
        if self._is_zero(product, vector) and self._is_zero(other, self.vector):
            return
        one, two = (float(x.double() @ y.double()) for x, y in ((self.vector, product), (vector, other)))
        size = _norm(product) + ROUNDING * _norm(vector) * _norm(other)
        allowed = TOLERANCE[self._network.precision] * size
        if abs(one - two) > allowed:
            noise = self._noise(vector, product, self.product) + self._noise(self.vector, other, again.product)
            noisy = NOISE * _norm(noise) * (_norm(vector) + _norm(self.vector))
            allowed = max(allowed, min(noisy, LOOSEST * _norm(product) * _norm(self.vector)))
        if not abs(one - two) <= allowed:
            raise CertificateError(
                f"the second derivative of the loss is not symmetric: u . H w is {one:.6g} and w . H u {two:.6g} for "
                "two vectors; a gradient that differs from call to call can be the cause, or a custom Function whose "
                "backward is another function's gradient"
            )

    def far(self, found: Tensor, true: Tensor, noise: Tensor | None = None) -> dict[str, float]:
        """The parameters in whose rows `found` is not `true` (P,), up to `noise` (P,), and their relative distance."""
        found, true = found.double(), true.double()
        spans, precision = self._network.span, self._network.precision
        whole, tolerance = float(true.norm()), TOLERANCE[precision]
        share = tolerance * whole / len(spans) ** 0.5  # where each keeps to it, all together keep the tolerance
        failed = {}
        for name, span in spans.items():
            size, distance = float(true[span].norm()), float((found[span] - true[span]).norm())
            allowed = min(PARAMETER * tolerance * size + ROUNDING * tolerance * whole, share)
            allowed = allowed if noise is None else max(allowed, min(NOISE * _norm(noise[span]), LOOSEST * whole))
            if not distance <= allowed:
                failed[name] = distance / size if size else distance
        return failed


def _norm(x: Tensor) -> float:
    """In float64, where squares of float32 neither overflow nor vanish."""
    return float(x.double().norm())


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Gradients on, and products of float32 matrices in float32, not in TF32 or bfloat16; restored afterwards."""
    with contextlib.ExitStack() as restored, torch.enable_grad():
        try:
            products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        except RuntimeError:  # torch's newer switches are in use, which the older ones cannot read
            for module, parent in _switches():
                inherited = module.fp32_precision == parent.fp32_precision
                restored.callback(setattr, module, "fp32_precision", "none" if inherited else module.fp32_precision)
                module.fp32_precision = "ieee"
        else:
            if products != "highest":
                restored.callback(torch.set_float32_matmul_precision, products)
                torch.set_float32_matmul_precision("highest")
            if convolutions and torch.cuda.is_initialized():
                restored.callback(setattr, torch.backends.cudnn, "allow_tf32", convolutions)
                torch.backends.cudnn.allow_tf32 = False
        yield


def _switches() -> list[tuple[Any, Any]]:
    """The newer switches of the precision of float32 products, each with the one that it takes its value from."""
    every: Any = torch.backends
    cudnn, mkldnn = every.cudnn, every.mkldnn
    own = [(library.conv, library) for library in (cudnn, mkldnn)] + [
        (library.rnn, library) for library in (cudnn, mkldnn)
    ]
    return [(every.cuda.matmul, every), (mkldnn.matmul, mkldnn), *own]
