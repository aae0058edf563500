"""The eigenvalues that are wanted of a symmetric matrix, out of its products with a few orthonormal vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.estimates import Bounded


def rayleigh_ritz(basis: Tensor, images: Tensor, k: int, products: int, error: float = 0.0) -> Bounded:
    """The Rayleigh-Ritz approximations to the k eigenvalues of H of largest magnitude, and to its lowest one.

    `basis` (P, m) has orthonormal columns Q, and `images` (P, m) is H Q. `products` is the number that was spent,
    and `error` as in `bounded`. There is an eigenvalue of H within each error, but not necessarily the one that was
    wanted.

    Parlett, "The Symmetric Eigenvalue Problem", 1998, chapter 11.
    """
    values, rotation = torch.linalg.eigh(basis.T @ images)
    residuals = (images @ rotation - (basis @ rotation) * values).norm(dim=0)
    return bounded(values, residuals, k, len(basis), products, error)


def bounded(values: Tensor, residuals: Tensor, k: int, params: int, products: int, error: float = 0.0) -> Bounded:
    """The k values of largest magnitude out of `values` (m,), then the lowest one, with their errors.

    An error is the residual norm of a unit vector, and what `rounding` adds, of `params` entries. `error` is that of a
    product with a unit vector beyond rounding (`methods.products.Products.error`), which residuals do not show.
    """
    chosen = wanted(values, k)
    errors = residuals[chosen] + rounding(params, values.dtype) * values.abs().max() + error
    return Bounded(values[chosen], errors, products)


def rounding(params: int, dtype: torch.dtype) -> float:
    """The rounding error that is expected of a product with a matrix (P, P), relative to its largest magnitude."""
    return torch.finfo(dtype).eps * math.sqrt(params)


def wanted(values: Tensor, k: int) -> Tensor:
    """Places (k + 1,) of the k values of largest magnitude, in descending magnitude, and of the lowest value."""
    return torch.cat([values.abs().argsort(descending=True)[:k], values.argmin()[None]])


def check_count(k: int, params: int) -> None:
    """Raise ValueError unless k of `params` eigenvalues can be asked for."""
    if not 1 <= k <= params:
        raise ValueError(
            f"k={k} eigenvalues were asked for, and {params} parameters have {params}; set k to 1..{params}"
        )


def check_budget(most_products: int, least: int, tolerance: float) -> None:
    """Raise ValueError for a tolerance below 0, and for fewer products than a method needs."""
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of at least 0; found {tolerance}")
    if not (isinstance(most_products, int) and most_products >= least):
        raise ValueError(f"most_products must be a whole number of at least {least} here; found {most_products}")


def random_vector(theta: Tensor, generator: torch.Generator) -> Tensor:
    """A standard normal vector (P,) to start from, the same for every dtype and device."""
    return torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
