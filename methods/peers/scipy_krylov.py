"""SciPy's Krylov solvers: MINRES (Paige and Saunders 1975) and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.sparse.linalg import cg, minres
from torch import Tensor

from methods.estimates import Bounded
from methods.peers.scipy_operators import Operator
from methods.products import Products
from methods.ritz import check_budget
from methods.solving import solved

SOLVERS: dict[str, Callable[..., Any]] = {"minres": minres, "cg": cg}


def ihvp(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectors: Tensor,
    damping: float,
    solver: str = "minres",
    hvp: str = "reverse_over_reverse",
    tolerance: float = 1e-6,
    most_products: int = 1000,
) -> Bounded:
    """(H + damping I)^-1 V for the Hessian H of `loss` at `theta` (P,) and the columns of V (P, m), as (P, m).

    `solver` is "minres", which solves indefinite systems too, or "cg", which does not: SciPy's goes on where it meets
    negative curvature, and its residual shows it. For each column the solver stops by its own criterion with
    `tolerance` (minres: |r| relative to |A| |x|; cg: to the column), or after `most_products` iterations of one product
    by `hvp` (see `methods.products`). The relative residual is then computed with one product more, and is the error
    that is stated. Vectors pass through the CPU.

    Raises ValueError for another `solver` or `hvp`, a `tolerance` below 0 and `most_products` below 1.
    """
    check_budget(most_products, 1, tolerance)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; found {solver}")

    def solve(matrix: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
        right = vector.cpu().numpy()
        solution, _ = SOLVERS[solver](Operator(matrix, vector), right, rtol=tolerance, maxiter=most_products)
        return torch.from_numpy(solution).to(theta)

    return solved(Products(loss, theta, hvp), vectors, damping, solve)
