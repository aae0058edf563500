"""Rows by a second backward pass through the graph of one gradient (reverse-over-reverse, a loop)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from methods.blocks import restricted
from methods.chunks import output


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor, out: Tensor | None = None) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)): P backward passes through one gradient's graph.

    It is written into `out` if given. Raises ValueError for an `out` of another shape, dtype or device.
    """
    result = output(theta, out)
    for index, row in enumerate(_rows(loss, theta)):
        result[index] = row
    return result


def diagonal(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Diagonal of the Hessian ((P,) -> (P,)): one entry of each of its rows."""
    result = torch.empty_like(theta)
    for index, row in enumerate(_rows(loss, theta)):
        result[index] = row[index]
    return result


def hvp(loss: Callable[[Tensor], Tensor], theta: Tensor, vectors: Tensor) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)): one backward pass of gradient . v for each v.

    Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994), has the product.
    """
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    products = [torch.autograd.grad(gradient, theta, grad_outputs=v, retain_graph=True)[0] for v in vectors.unbind(1)]
    return torch.stack(products, dim=1)


def block_diagonal(loss: Callable[[Tensor], Tensor], theta: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of the Hessian, one for each part of theta of `sizes`: rows restricted to the block."""
    return tuple(hessian(of_part, part) for of_part, part in restricted(loss, theta, sizes))


def _rows(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Iterator[Tensor]:
    """The Hessian's rows (P,), one after another, each from a one-hot vector.

    `for entry in gradient` looks simpler. But each of its passes then goes back through the unbinding of all P entries,
    which takes P small allocations: it is ten times slower at P = 3,000.
    """
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    one_hot = torch.zeros_like(gradient)
    for index in range(theta.numel()):
        one_hot[index] = 1
        yield torch.autograd.grad(gradient, theta, one_hot, retain_graph=True)[0]
        one_hot[index] = 0
