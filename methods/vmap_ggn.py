"""The generalised Gauss-Newton matrix (GGN) by vmapped products with Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from methods.calls import call
from methods.chunks import batched, matrix
from methods.ravel import ravel


def ggn(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float = 1000,
) -> Tensor:
    """J^T L J (P, P), with J the Jacobian of the outputs in the parameters and L the loss's Hessian in the outputs.

    It is the Hessian with the second derivatives of the network left out, and positive semi-definite for a convex loss
    (Schraudolph 2002; Martens 2020, "New insights and perspectives on the natural gradient method"). Each row is a jvp,
    a product with L, and a vjp; `chunk_size` rows are done at once, as in `methods.vmap_hvp`. Rows and columns are in
    the order of `model.named_parameters()`.
    """
    theta, unravel = ravel(model)

    def outputs(theta: Tensor) -> Tensor:
        return call(model, unravel(theta), inputs)

    predicted, pull = vjp(outputs, theta)  # type: ignore[misc]  two values without has_aux
    curve = vjp(grad(lambda z: criterion(z, targets)), predicted)[1]
    product = batched(lambda v: pull(curve(jvp(outputs, (theta,), (v,))[1])[0])[0])
    return matrix(product, theta, chunk_size, memory_budget_mb)
