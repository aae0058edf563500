"""Rows by second backward passes through the graph of one gradient, a chunk at a time (`is_grads_batched`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from methods.blocks import restricted
from methods.chunks import Product, one_hot, slices

Loss = Callable[[Tensor], Tensor]


def hessian(loss: Loss, theta: Tensor, chunk_size: int | str | None = 64, memory_budget_mb: float = 256) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), `chunk_size` rows at once (None: all; "auto": what fits).

    `memory_budget_mb` is for "auto", beyond the result. Raises ValueError for another chunk_size.
    """
    product = _product(loss, theta)
    result = theta.new_empty(theta.numel(), theta.numel())
    for rows in slices(theta.numel(), chunk_size, product, theta, memory_budget_mb):
        result[rows] = product(one_hot(rows, theta))
    return result


def diagonal(loss: Loss, theta: Tensor, chunk_size: int | str | None = 64, memory_budget_mb: float = 256) -> Tensor:
    """Diagonal of the Hessian ((P,) -> (P,)): all its rows, of each of which one entry is kept."""
    product = _product(loss, theta)
    result = torch.empty_like(theta)
    for rows in slices(theta.numel(), chunk_size, product, theta, memory_budget_mb):
        result[rows] = product(one_hot(rows, theta))[:, rows].diagonal()
    return result


def hvp(
    loss: Loss, theta: Tensor, vectors: Tensor, chunk_size: int | str | None = None, memory_budget_mb: float = 256
) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)), `chunk_size` of them at once."""
    product = _product(loss, theta)
    result = torch.empty_like(vectors)
    for columns in slices(vectors.shape[1], chunk_size, product, theta, memory_budget_mb):
        result[:, columns] = product(vectors[:, columns].T).T
    return result


def block_diagonal(
    loss: Loss,
    theta: Tensor,
    sizes: Sequence[int],
    chunk_size: int | str | None = 64,
    memory_budget_mb: float = 256,
) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of the Hessian, one for each part of theta of `sizes`."""
    parts = restricted(loss, theta, sizes)
    return tuple(hessian(of_part, part, chunk_size, memory_budget_mb) for of_part, part in parts)


def _product(loss: Loss, theta: Tensor) -> Product:
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return lambda rows: torch.autograd.grad(gradient, theta, rows, retain_graph=True, is_grads_batched=True)[0]
