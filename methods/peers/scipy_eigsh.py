"""SciPy's eigsh: ARPACK's implicitly restarted Lanczos method (Lehoucq, Sorensen and Yang 1998)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from methods.estimates import Bounded
from methods.peers.scipy_operators import Operator
from methods.products import Products
from methods.ritz import check_budget, check_count, random_vector, rayleigh_ritz


def eigenvalues(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    k: int,
    hvp: str = "reverse_over_reverse",
    tolerance: float = 1e-5,
    most_products: int = 1000,
    ncv: int | None = None,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian of `loss` at `theta` (P,), then the lowest one.

    `eigsh` is called for the k of largest magnitude ("LM") and for the lowest one ("SA"), with `ncv` vectors each
    (None: SciPy's max(2 k + 1, 20)) and about half of `most_products` products by `hvp` (see `methods.products`). Its
    stopping criterion is `tolerance`, relative to each eigenvalue. The values are those of Rayleigh-Ritz on the vectors
    that it finds, their errors the residual norms; that takes k + 1 products more. Vectors pass through the CPU.

    Raises ValueError for k of at least P and another `hvp`; NotImplementedError for dtypes other than float32 and
    float64; ArithmeticError where fewer eigenvalues converge than were asked for.
    """
    params = theta.numel()
    check_count(k, params)
    if k == params:
        raise ValueError(
            f"ARPACK finds fewer eigenvalues than there are; found k={k} of {params}: take an exact method"
        )
    check_budget(most_products, 2 * (k + 1), tolerance)
    if theta.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f"ARPACK computes in float32 and float64; found {theta.dtype}")
    products = Products(loss, theta, hvp)
    start = random_vector(theta, torch.Generator().manual_seed(seed)).cpu().numpy()
    operator = Operator(products.one, theta)
    shared: dict[str, Any] = {"v0": start, "tol": tolerance}
    found = []
    for count, which in ((k, "LM"), (1, "SA")):
        width = min(params, max(2 * count + 1, 20) if ncv is None else ncv)
        restarts = max(1, most_products // 2 // max(1, width - count))
        try:
            vectors = eigsh(operator, count, which=which, ncv=width, maxiter=restarts, **shared)[1]
        except ArpackNoConvergence as error:
            raise ArithmeticError(
                f"ARPACK found {error.eigenvectors.shape[1]} of {count} eigenvalues ({which}) to tolerance="
                f"{tolerance:g} within most_products={most_products}; raise either, or ncv"
            ) from error
        found.append(torch.from_numpy(vectors).to(theta))
    basis = torch.linalg.qr(torch.cat(found, dim=1)).Q
    images = products(basis)
    return rayleigh_ritz(basis, images, k, products.count, products.error)
