"""The diagonal blocks of the Hessian or of the GGN, one for each parameter tensor, with zeros between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods import vmap_hvp
from methods.blocks import restricted
from methods.calls import call
from methods.chunks import matrix
from methods.estimates import Approximation
from methods.gauss_newton import ggn_product
from methods.ravel import leaves_of, ravel


def hessian(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    sizes: Sequence[int],
    composition: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Approximation:
    """Blocks of the Hessian of `loss` at `theta` (P,), for parts of `sizes`, by `methods.vmap_hvp.block_diagonal`."""
    blocks = vmap_hvp.block_diagonal(loss, theta, sizes, composition, chunk_size, memory_budget_mb)
    return Approximation(torch.block_diag(*blocks))


def ggn(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Approximation:
    """Blocks of the GGN that `methods.vmap_ggn` gives, each by products with vectors of its own parameters."""
    theta, unravel = ravel(model)
    sizes = [leaf.numel() for leaf in leaves_of(model)]

    def outputs(theta: Tensor) -> Tensor:
        return call(model, unravel(theta), inputs)

    blocks = []
    for of_part, part in restricted(outputs, theta, sizes):
        product = ggn_product(of_part, part, lambda z: criterion(z, targets))
        blocks.append(matrix(product, part, chunk_size, memory_budget_mb))
    return Approximation(torch.block_diag(*blocks))
