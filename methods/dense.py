"""What follows from a Hessian H (P, P) that is at hand: its eigenvalues, its spectrum, and products with an inverse.

They take O(P^3) operations and the memory of another matrix or two. torch has them in float32 and float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.estimates import Spectrum

POWERS = (1, 2, 3, 4)  # of the moments


def eigenvalues(hessian: Tensor, k: int) -> Tensor:
    """The `k` eigenvalues of largest magnitude, in descending magnitude, then the lowest one: (P, P) -> (k + 1,).

    Raises ValueError for more eigenvalues than there are.
    """
    if not 1 <= k <= len(hessian):
        raise ValueError(f"k={k} eigenvalues of {len(hessian)} parameters; k must be from 1 to {len(hessian)}")
    ascending = torch.linalg.eigvalsh(hessian)
    largest = ascending.abs().argsort(descending=True)[:k]
    return torch.cat([ascending[largest], ascending[:1]])


def spectrum(hessian: Tensor) -> Spectrum:
    """All eigenvalues, each of weight 1 / P, with their exact moments."""
    nodes = torch.linalg.eigvalsh(hessian)
    moments = torch.stack([nodes.pow(power).mean() for power in POWERS])
    return Spectrum(nodes, torch.full_like(nodes, 1 / len(nodes)), moments, torch.zeros_like(moments))


def ihvp(hessian: Tensor, vectors: Tensor, damping: float) -> Tensor:
    """(H + damping I)^-1 V, (P, m) -> (P, m). It is written over `hessian`.

    H + damping I is indefinite as a rule, so it is factored as L D L^T with D of blocks of one or two (Bunch and
    Kaufman, "Some stable methods for calculating inertia and solving symmetric linear systems", 1977). Raises
    ArithmeticError where it is singular to working precision.
    """
    hessian.diagonal().add_(damping)
    factors, pivots, info = torch.linalg.ldl_factor_ex(hessian)
    solution = torch.linalg.ldl_solve(factors, pivots, vectors)
    if bool(info) or not bool(solution.isfinite().all()):
        raise ArithmeticError(f"H + damping I is singular with damping={damping}; take another damping")
    return solution
