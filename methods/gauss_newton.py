"""Products with the generalised Gauss-Newton matrix (GGN), for functions of any of a network's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import grad, jvp, vjp

from methods.chunks import Product, batched


def ggn_product(outputs: Callable[[Tensor], Any], theta: Tensor, loss: Callable[[Any], Tensor]) -> Product:
    """The map of rows (c, P) to their products (c, P) with J^T L J, for one row by a jvp, a product with L, and a vjp.

    J is the Jacobian of `outputs` at `theta` (P,), and L the Hessian of `loss` in the outputs.
    """
    predicted, pull = vjp(outputs, theta)  # type: ignore[misc]  two values without has_aux
    curve = vjp(grad(loss), predicted)[1]

    def product(v: Tensor) -> Tensor:
        change = jvp(outputs, (theta,), (v,))[1]  # J v
        (cotangent,) = curve(change)  # L J v
        return pull(cotangent)[0]

    return batched(product)
