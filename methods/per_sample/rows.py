"""Each sample's own Hessian without vmap of derivatives: a backward pass gives one row of all of them.

The gradient of the sum of the samples' losses holds each sample's own gradient, since samples do not depend on each
other. A backward pass from one coordinate of it, added up over the samples, gives that row of every Hessian. It is what
code for the residuals of differential equations mostly does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def hessian(loss: Loss, points: Tensor) -> Tensor:
    """Each sample's Hessian (N, D, D): D backward passes for all samples together.

    `loss` maps the points (N, D), one after another as (N D,), to the sum () of the samples' losses.
    """
    return torch.stack(list(_rows(loss, points)), dim=1)


def diagonal(loss: Loss, points: Tensor) -> Tensor:
    """The diagonals (N, D): one entry of each row."""
    return torch.stack([row[:, place] for place, row in enumerate(_rows(loss, points))], dim=1)


def trace(loss: Loss, points: Tensor) -> Tensor:
    """The traces (N,): one entry of each row, added up."""
    result = points.new_zeros(len(points))
    for place, row in enumerate(_rows(loss, points)):
        result += row[:, place]
    return result


def hvp(loss: Loss, points: Tensor, vectors: Tensor) -> Tensor:
    """Each sample's Hessian times its vectors ((N, D, m) -> (N, D, m)): m backward passes for all samples together."""
    at, gradient = _gradient(loss, points)
    found = [_backward(gradient, at, vector) for vector in vectors.unbind(2)]
    return torch.stack(found, dim=2)


def _rows(loss: Loss, points: Tensor) -> Iterator[Tensor]:
    """The rows (N, D) of all Hessians, one after another."""
    at, gradient = _gradient(loss, points)
    one_hot = torch.zeros_like(points)
    for place in range(points.shape[1]):
        one_hot[:, place] = 1
        yield _backward(gradient, at, one_hot)
        one_hot[:, place] = 0


def _gradient(loss: Loss, points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, D) that require a gradient, and the gradient (N, D) with its graph."""
    at = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at.reshape(-1)), at, create_graph=True)
    return at, gradient


def _backward(gradient: Tensor, at: Tensor, cotangents: Tensor) -> Tensor:
    """The derivative (N, D) of `gradient . cotangents`; zeros where the gradient is constant."""
    if not gradient.requires_grad:
        return torch.zeros_like(cotangents)
    return torch.autograd.grad(gradient, at, cotangents, retain_graph=True, materialize_grads=True)[0]
