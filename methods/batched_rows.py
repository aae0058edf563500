"""Rows by second backward passes through the graph of one gradient, a chunk at a time (`is_grads_batched`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from methods.blocks import restricted
from methods.chunks import Product, matrix, matrix_diagonal, matrix_times

Loss = Callable[[Tensor], Tensor]


def hessian(
    loss: Loss,
    theta: Tensor,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), `chunk_size` rows at once, written into `out` if given.

    The options, and the ValueError for their values, are those of `methods.chunks`.
    """
    return matrix(_product(loss, theta), theta, chunk_size, memory_budget_mb, out)


def diagonal(
    loss: Loss, theta: Tensor, chunk_size: int | str | None = 64, memory_budget_mb: float | None = None
) -> Tensor:
    """Diagonal of the Hessian ((P,) -> (P,)): one entry of each row. Options as for `hessian`."""
    return matrix_diagonal(_product(loss, theta), theta, chunk_size, memory_budget_mb)


def hvp(
    loss: Loss,
    theta: Tensor,
    vectors: Tensor,
    chunk_size: int | str | None = None,
    memory_budget_mb: float | None = None,
) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)), `chunk_size` of them at once. Options as for `hessian`."""
    return matrix_times(vectors, _product(loss, theta), theta, chunk_size, memory_budget_mb)


def block_diagonal(
    loss: Loss,
    theta: Tensor,
    sizes: Sequence[int],
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of the Hessian, one for each part of theta of `sizes`. Options as for `hessian`."""
    parts = restricted(loss, theta, sizes)
    return tuple(hessian(of_part, part, chunk_size, memory_budget_mb) for of_part, part in parts)


def _product(loss: Loss, theta: Tensor) -> Product:
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return lambda rows: torch.autograd.grad(gradient, theta, rows, retain_graph=True, is_grads_batched=True)[0]
