"""The largest eigenvalues of the Hessian, one after another, by power iteration; its lowest one by a shift."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.estimates import Bounded
from methods.products import Products
from methods.ritz import check_budget, check_count, random_vector, rayleigh_ritz


def eigenvalues(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    k: int,
    hvp: str = "reverse_over_reverse",
    tolerance: float = 1e-3,
    most_products: int = 1000,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian of `loss` at `theta` (P,), then the lowest one.

    Each vector is kept orthogonal to those before it (deflation). It ends where its residual norm is at most
    `tolerance` times the largest magnitude, or with an equal share of `most_products` products by `hvp` (see
    `methods.products`). The lowest eigenvalue is that of largest magnitude of H - |lambda_1| I. The values are those of
    Rayleigh-Ritz on all vectors, their errors the residual norms; that takes one product more for each.

    The residual shrinks by |lambda_{i+1} / lambda_i| with each product: slowly, or not at all for a pair of opposite
    signs.

    Raises ValueError for k above P, for less than two products for each eigenvalue, and for another `hvp`.

    von Mises and Pollaczek-Geiringer, "Praktische Verfahren der Gleichungsauflösung", 1929.
    """
    params = theta.numel()
    check_count(k, params)
    check_budget(most_products, 2 * (k + 1), tolerance)
    products = Products(loss, theta, hvp)
    generator = torch.Generator().manual_seed(seed)
    share = most_products // (k + 1) - 1
    found = theta.new_zeros(params, 0)
    largest = 0.0
    for _ in range(k):
        vector, value = _dominant(products.one, found, random_vector(theta, generator), share, tolerance, largest)
        largest = max(largest, abs(value))
        found = torch.cat([found, vector[:, None]], dim=1)
    if k < params:
        shifted = _shifted(products, largest)
        lowest, _ = _dominant(shifted, found[:, :0], random_vector(theta, generator), share, tolerance, largest)
        found = torch.cat([found, lowest[:, None]], dim=1)
    basis = torch.linalg.qr(found).Q
    images = products(basis)
    return rayleigh_ritz(basis, images, k, products.count, products.error)


def _shifted(products: Products, shift: float) -> Callable[[Tensor], Tensor]:
    return lambda vector: products.one(vector) - shift * vector


def _dominant(
    product: Callable[[Tensor], Tensor], found: Tensor, vector: Tensor, most: int, tolerance: float, largest: float
) -> tuple[Tensor, float]:
    """The eigenvector (P,) of largest magnitude orthogonal to `found` (P, j), and its Rayleigh quotient.

    `largest` is the largest magnitude so far.
    """
    value = 0.0
    vector = _unit(vector - found @ (found.T @ vector), vector)
    for _ in range(most):
        image = product(vector)
        image = image - found @ (found.T @ image)
        value = float(vector @ image)
        residual = float((image - value * vector).norm())
        if residual <= tolerance * max(abs(value), largest):
            break
        vector = _unit(image, vector)
    return vector, value


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """The vector of norm 1, or another one where it is zero."""
    norm = vector.norm()
    return vector / norm if norm > 0 else otherwise / otherwise.norm()
