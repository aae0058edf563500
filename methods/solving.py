"""What iterative solvers of (H + damping I) x = v share: the vectors in turn, and the residual of the solution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.estimates import Bounded
from methods.products import Products

Solver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def solved(products: Products, vectors: Tensor, damping: float, solve: Solver) -> Bounded:
    """The solutions (P, m) for `vectors` (P, m), one after another, with their residuals.

    `solve` takes the map x -> (H + damping I) x, (P,) -> (P,), and a vector (P,), and returns the solution (P,). Raises
    ValueError for vectors of another shape, or that are not finite.
    """
    params = products.theta.numel()
    if vectors.dim() != 2 or len(vectors) != params or vectors.shape[1] == 0 or not bool(vectors.isfinite().all()):
        raise ValueError(f"vectors {tuple(vectors.shape)} must be finite numbers ({params}, m), one vector a column")
    matrix = damped(products, damping)
    solutions = [solve(matrix, vector) for vector in vectors.unbind(1)]
    return with_residual(products, torch.stack(solutions, dim=1), vectors, damping)


def damped(products: Products, damping: float) -> Callable[[Tensor], Tensor]:
    """The map x -> (H + damping I) x, (P,) -> (P,)."""
    return lambda vector: products.one(vector) + damping * vector


def least(tolerance: float, dtype: torch.dtype) -> float:
    """The tolerance, but no less than rounding: a smaller residual by recurrence is none of the solution."""
    return max(tolerance, torch.finfo(dtype).eps)


def with_residual(products: Products, solution: Tensor, vectors: Tensor, damping: float) -> Bounded:
    """Solutions (P, m) with their residuals |(H + damping I) x - v| / |v|, which take one product more for each."""
    residual = products(solution) + damping * solution - vectors
    return Bounded(solution, residual.norm(dim=0) / norms(vectors), products.count)


def norms(vectors: Tensor) -> Tensor:
    """Norms (m,) to divide by: 1 for vectors of zeros."""
    found = vectors.norm(dim=0)
    return torch.where(found > 0, found, torch.ones_like(found))
