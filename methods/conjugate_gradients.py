"""Inverse products by conjugate gradients, which need a positive definite matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.estimates import Bounded
from methods.products import Products
from methods.ritz import check_budget
from methods.solving import least, solved


def ihvp(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectors: Tensor,
    damping: float,
    hvp: str = "reverse_over_reverse",
    tolerance: float = 1e-6,
    most_products: int = 1000,
) -> Bounded:
    """(H + damping I)^-1 V for the Hessian H of `loss` at `theta` (P,) and the columns of V (P, m), as (P, m).

    For each column it ends where the norm of the residual, by its recurrence, is at most `tolerance` times that of the
    column, or after `most_products` products by `hvp` (see `methods.products`). The relative residual is then computed
    with one product more, and is the error that is stated.

    The Hessian of a network is indefinite as a rule, and conjugate gradients solve the system only where the damping
    makes H + damping I positive definite: they minimise its quadratic form, which has no minimum otherwise. Negative
    curvature along a direction p shows that it is not: p . (H + damping I) p < 0.

    Raises ArithmeticError where negative curvature is met, ValueError for a `tolerance` below 0, `most_products` below
    1 and another `hvp`.

    Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    check_budget(most_products, 1, tolerance)

    def solve(matrix: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
        solution, residual, direction = torch.zeros_like(vector), vector, vector
        square = residual @ residual
        enough = least(tolerance, vector.dtype) ** 2 * square
        for step in range(most_products):
            if square <= enough:
                break
            image = matrix(direction)
            curvature = direction @ image
            if curvature <= 0:
                raise ArithmeticError(_negative(float(curvature / (direction @ direction)), damping, step + 1))
            length = square / curvature
            solution = solution + length * direction
            residual = residual - length * image
            previous, square = square, residual @ residual
            direction = residual + square / previous * direction
        return solution

    return solved(Products(loss, theta, hvp), vectors, damping, solve)


def _negative(quotient: float, damping: float, products: int) -> str:
    return (
        f"conjugate gradients met negative curvature in product {products}: p . (H + damping I) p / p . p = "
        f"{quotient:.3g} with damping={damping:g}, so that H has an eigenvalue of at most {quotient - damping:.3g} and "
        f"the matrix is not positive definite; take a damping above {damping - quotient:.3g} at least, or a "
        "method for indefinite matrices, such as minres"
    )
