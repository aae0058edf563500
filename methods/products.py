"""The products V -> H V that iterative methods spend, by any Hessian-vector product, and how many they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from methods import vmap_hvp
from methods.chunks import Product, matrix_times
from methods.dense import finite
from methods.finite_differences import Gradients

BY_GRADIENTS = "finite_differences"


class Products:
    """The Hessian H of `loss` at `theta` (P,), as something that multiplies.

    `hvp` names the Hessian-vector product: a composition of `methods.vmap_hvp.hvp`, or "finite_differences" for those
    of two gradients (`methods.finite_differences`), which then count. With reverse_over_reverse and linearize, all
    products go through one graph of the gradient, which is kept as long as this object. `chunk_size` is the number of
    products at once, and `memory_budget_mb` that of "auto", as in `methods.chunks`. Raises ValueError, at the first
    product, for another `hvp`.
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        theta: Tensor,
        hvp: str = "reverse_over_reverse",
        chunk_size: int | str | None = 64,
        memory_budget_mb: float | None = None,
    ) -> None:
        self.theta = theta
        self.count = 0  # products so far, or gradients
        self._loss, self._hvp, self._chunking = loss, hvp, (chunk_size, memory_budget_mb)
        self._gradients = Gradients(loss, theta) if hvp == BY_GRADIENTS else None

    def __call__(self, vectors: Tensor) -> Tensor:
        """H V, (P, k) -> (P, k)."""
        if self._gradients is None:
            self.count += vectors.shape[1]
            return matrix_times(vectors, self._rows, self.theta, *self._chunking)
        products = torch.stack([self._gradients.derivative(vector) for vector in vectors.unbind(1)], dim=1)
        self.count = self._gradients.count
        return products

    def one(self, vector: Tensor) -> Tensor:
        """H v, (P,) -> (P,), for an iteration. Raises ArithmeticError where it is not finite."""
        return finite(self(vector[:, None])[:, 0])

    @property
    def error(self) -> float:
        """The norm of the error of products with unit vectors, beyond that of rounding: of finite differences."""
        return 0.0 if self._gradients is None else 2 * self._gradients.largest_rounding

    @cached_property
    def _rows(self) -> Product:
        return vmap_hvp.product(self._loss, self.theta, self._hvp)
