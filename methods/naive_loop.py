"""One backward pass for each entry of the Hessian: the loops that many people write first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)): P^2 backward passes, each for one entry."""
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    result = torch.zeros(theta.numel(), theta.numel(), dtype=theta.dtype, device=theta.device)
    for i in range(theta.numel()):
        for j in range(theta.numel()):
            result[i, j] = torch.autograd.grad(gradient[i], theta, retain_graph=True)[0][j]
    return result


def diagonal(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Diagonal of the Hessian ((P,) -> (P,)): P backward passes, each for one entry."""
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    result = torch.zeros_like(theta, requires_grad=False)
    for i in range(theta.numel()):
        result[i] = torch.autograd.grad(gradient[i], theta, retain_graph=True)[0][i]
    return result
