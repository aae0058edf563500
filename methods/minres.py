"""Inverse products by MINRES, which needs no positive definite matrix."""

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

    H + damping I may be indefinite, as it is as a rule: the system is solved as it is, with the least residual in each
    Krylov space. For each column it ends where the norm of the residual, by its recurrence, is at most `tolerance`
    times that of the column, or after `most_products` products by `hvp` (see `methods.products`). The relative residual
    is then computed with one product more, and is the error that is stated. Where an eigenvalue of H is close to
    -damping, a small residual may leave a large error.

    Raises ValueError for a `tolerance` below 0, `most_products` below 1 and another `hvp`.

    Paige and Saunders, "Solution of sparse indefinite systems of linear equations", 1975.
    """
    check_budget(most_products, 1, tolerance)
    enough = least(tolerance, theta.dtype)
    negligible = 10 * torch.finfo(theta.dtype).eps  # relative to the size of T

    def solve(matrix: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
        norm = vector.norm()
        solution = torch.zeros_like(vector)
        if norm == 0:
            return solution
        # Lanczos: A V_n = V_{n+1} T_n, with T of diagonal alpha and off-diagonal beta; here v_{n-1}, v_n and beta_n.
        before, current, beta = torch.zeros_like(vector), vector / norm, torch.zeros_like(norm)
        # Givens rotations reduce T to R, of three diagonals; here the last two of them, and the columns of V R^-1.
        cos_before = cosine = torch.ones_like(norm)
        sin_before = sine = torch.zeros_like(norm)
        second, first = torch.zeros_like(vector), torch.zeros_like(vector)
        residual, size = norm, torch.zeros_like(norm)
        for _ in range(most_products):
            image = matrix(current) - beta * before
            alpha = current @ image
            image = image - alpha * current
            beta_next = image.norm()
            # Column n of R: the two rotations before applied to (beta, alpha), and a new one that removes beta_next.
            outer = sin_before * beta
            inner = cosine * cos_before * beta + sine * alpha
            corner = cosine * alpha - sine * cos_before * beta
            diagonal = torch.hypot(corner, beta_next)
            size = torch.maximum(size, alpha.abs() + beta_next)
            if diagonal <= negligible * size:
                break  # the matrix is singular in this Krylov space, and the residual is the least
            second, first = first, (current - inner * first - outer * second) / diagonal
            cos_before, sin_before = cosine, sine
            cosine, sine = corner / diagonal, beta_next / diagonal
            solution = solution + cosine * residual * first
            residual = -sine * residual
            if residual.abs() <= enough * norm or beta_next <= negligible * size:
                break
            before, current, beta = current, image / beta_next, beta_next
        return solution

    return solved(Products(loss, theta, hvp), vectors, damping, solve)
