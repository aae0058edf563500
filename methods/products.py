"""The products V -> H V that iterative methods spend, by any Hessian-vector product, and how many they were."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from methods import vmap_hvp


class Products:
    """The Hessian H of `loss` at `theta` (P,), as something that multiplies.

    `hvp` names the Hessian-vector product: a composition of `methods.vmap_hvp.hvp`. `chunk_size` is the number of
    products at once, as in `methods.chunks`. Raises ValueError, at the first product, for another `hvp`.
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        theta: Tensor,
        hvp: str = "reverse_over_reverse",
        chunk_size: int | str | None = 64,
    ) -> None:
        self.theta = theta
        self.count = 0  # products so far
        self._loss, self._hvp, self._chunk_size = loss, hvp, chunk_size

    def __call__(self, vectors: Tensor) -> Tensor:
        """H V, (P, k) -> (P, k)."""
        self.count += vectors.shape[1]
        return vmap_hvp.hvp(self._loss, self.theta, vectors, self._hvp, self._chunk_size)

    def one(self, vector: Tensor) -> Tensor:
        """H v, (P,) -> (P,)."""
        return self(vector[:, None])[:, 0]
