"""Inverse products by a truncated Neumann series, which needs a positive definite matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.estimates import Bounded
from methods.products import Products
from methods.ritz import check_budget, random_vector
from methods.solving import damped, least, solved

POWER_STEPS = 20  # of power iteration, for the scale
MARGIN = 1.2  # by which the largest eigenvalue may be above what these find


def ihvp(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectors: Tensor,
    damping: float,
    hvp: str = "reverse_over_reverse",
    scale: float | None = None,
    tolerance: float = 1e-3,
    most_products: int = 1000,
    seed: int = 0,
) -> Bounded:
    """(H + damping I)^-1 V for the Hessian H of `loss` at `theta` (P,) and the columns of V (P, m), as (P, m).

    With A = H + damping I the series is s sum_j (I - s A)^j v. It converges where all eigenvalues of A are within
    (0, 2 / s), as slowly as (1 - s lambda)^j for the lowest one. That is seldom so of a network's Hessian, which is
    indefinite as a rule: the damping must be above minus the lowest eigenvalue. `scale` is s; None for 1 over the
    largest magnitude that 20 products of power iteration find, times 1.2. LiSSA is the same series with the Hessian
    of another random batch in each term.

    The residual v - A x is the series' next term. For each column it ends where the norm of that is at most `tolerance`
    times that of the column, or after `most_products` products by `hvp` (see `methods.products`). The relative residual
    is then computed with one product more, and is the error that is stated.

    Raises ArithmeticError where the residual grows, as it cannot where the series converges; ValueError for a `scale`
    not above 0, a `tolerance` below 0, `most_products` below 1 and another `hvp`.

    Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation", 2020; Agarwal,
    Bullins and Hazan, "Second-order stochastic optimization for machine learning in linear time", 2017 (LiSSA).
    """
    check_budget(most_products, 1, tolerance)
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be a number above 0, or null; found {scale}")
    products = Products(loss, theta, hvp)
    factor = 1 / (MARGIN * _largest(damped(products, damping), theta, seed)) if scale is None else scale

    def solve(matrix: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
        solution, residual = torch.zeros_like(vector), vector
        norm = began = vector.norm()
        for step in range(most_products):
            if norm <= least(tolerance, norm.dtype) * began:
                break
            solution = solution + factor * residual
            residual = residual - factor * matrix(residual)
            previous, norm = norm, residual.norm()
            if not norm <= previous * (1 + 10 * torch.finfo(norm.dtype).eps):
                raise ArithmeticError(
                    _diverged(float(previous / began), float(norm / began), step + 1, damping, factor)
                )
        return solution

    return solved(products, vectors, damping, solve)


def _largest(matrix: Callable[[Tensor], Tensor], theta: Tensor, seed: int) -> float:
    """The norm of the matrix's product with the unit vector that power iteration ends with: a lower bound."""
    vector = random_vector(theta, torch.Generator().manual_seed(seed))
    norm = vector.norm()
    for _ in range(POWER_STEPS):
        vector = matrix(vector / norm)
        norm = vector.norm()
        if norm == 0:
            return 1.0  # of a matrix of zeros, for which every scale is right
    return float(norm)


def _diverged(before: float, after: float, products: int, damping: float, scale: float) -> str:
    return (
        f"the Neumann series diverges: its residual grew from {before:.6g} to {after:.6g} of the vector's norm in "
        f"product {products}, with damping={damping:g}; H + damping I has an eigenvalue outside (0, {2 / scale:.3g}), "
        f"which is (0, 2 / scale): take more damping, a smaller scale where it is too large, or a method for "
        "indefinite matrices, such as minres"
    )
