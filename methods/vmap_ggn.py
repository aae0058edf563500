"""The generalised Gauss-Newton matrix (GGN) by vmapped products with Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.calls import call
from methods.chunks import matrix
from methods.gauss_newton import ggn_product
from methods.ravel import ravel


def ggn(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """J^T L J (P, P), with J the Jacobian of the outputs in the parameters and L the loss's Hessian in the outputs.

    It is the Hessian without the second derivatives of the network, and positive semi-definite for a convex loss. Each
    row takes a jvp, a product with L, and a vjp; `chunk_size` rows are computed at once, as in `methods.chunks`, and
    written into `out` if given. Rows and columns are in the order of `model.named_parameters()`. Raises ValueError as
    `methods.ravel` and `methods.chunks` do.

    Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", 2002; Martens, "New insights
    and perspectives on the natural gradient method", 2020.
    """
    theta, unravel = ravel(model)

    def outputs(theta: Tensor) -> Tensor:
        return call(model, unravel(theta), inputs)

    product = ggn_product(outputs, theta, lambda z: criterion(z, targets))
    return matrix(product, theta, chunk_size, memory_budget_mb, out)
