"""The largest eigenvalues of the Hessian and its lowest one, by torch.lobpcg from both ends of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from methods.dense import finite
from methods.estimates import Bounded
from methods.products import Products
from methods.ritz import check_budget, check_count, rayleigh_ritz

PER_STEP = 4  # products with the block that torch 2.13 takes in each iteration: three of the basis, one of the residual


def eigenvalues(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    k: int,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
    tolerance: float = 1e-5,
    most_products: int = 2000,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian of `loss` at `theta` (P,), then the lowest one.

    `torch.lobpcg` finds the k largest and the k lowest, since either may hold those of largest magnitude. Its
    products with the matrix are taken by `hvp` (see `methods.products`), and no matrix is formed. Each end stops by
    torch's criterion `tolerance`, or with half of `most_products`. The values are those of Rayleigh-Ritz on both
    blocks, their errors the residual norms; that takes 2 k products more.

    Raises ValueError for k above P / 6, where both blocks leave no room for a basis of 3 k vectors each, fewer products
    than two iterations need, and another `hvp`.

    Knyazev, "Toward the optimal preconditioned eigensolver: LOBPCG", 2001; Duersch et al., "A robust and efficient
    implementation of LOBPCG", 2018.
    """
    params = theta.numel()
    check_count(k, params)
    if 6 * k > params:
        raise ValueError(f"LOBPCG needs 6 k parameters or more; found k={k} and {params}: take an exact method")
    check_budget(most_products, 20 * k, tolerance)
    products = Products(loss, theta, hvp, chunk_size)
    steps = (most_products - 2 * k) // 2 // (PER_STEP * k)
    generator = torch.Generator().manual_seed(seed)
    matrix = theta.new_full((1,), math.nan).expand(params, params)  # stands for the Hessian, of one entry's memory
    blocks = []
    for largest in (True, False):
        start = torch.randn(params, k, generator=generator, dtype=torch.float64).to(theta)
        with _MatrixFree(matrix, products):
            blocks.append(torch.lobpcg(matrix, X=start, niter=steps, tol=tolerance, largest=largest)[1])
    basis = torch.linalg.qr(torch.cat(blocks, dim=1)).Q
    images = products(basis)
    return rayleigh_ritz(basis, images, k, products.count, products.error)


class _MatrixFree(TorchFunctionMode):
    """Within it, products with `matrix`, which stands for the Hessian, are computed by `multiply`."""

    def __init__(self, matrix: Tensor, multiply: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._matrix, self._multiply = matrix, multiply

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.matmul and args[0] is self._matrix:
            return finite(self._multiply(args[1]))
        return func(*args, **(kwargs or {}))
