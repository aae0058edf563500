"""What follows from a Hessian H (P, P) that is at hand: its eigenvalues, its spectrum, and products with an inverse.

They take O(P^3) operations and the memory of another matrix or two. torch has them in float32 and float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.estimates import Spectrum

POWERS = (1, 2, 3, 4)  # of the moments
UNSOLVED = 0.1  # of a vector: no rounding leaves so large a residual of a matrix that has an inverse


def eigenvalues(hessian: Tensor, k: int) -> Tensor:
    """The `k` eigenvalues of largest magnitude, in descending magnitude, then the lowest one: (P, P) -> (k + 1,).

    Raises ValueError for more eigenvalues than there are, and ArithmeticError for entries that are not finite.
    """
    if not 1 <= k <= len(hessian):
        raise ValueError(f"k={k} eigenvalues of {len(hessian)} parameters; k must be from 1 to {len(hessian)}")
    ascending = torch.linalg.eigvalsh(finite(hessian))
    largest = ascending.abs().argsort(descending=True)[:k]
    return torch.cat([ascending[largest], ascending[:1]])


def spectrum(hessian: Tensor) -> Spectrum:
    """All eigenvalues, each of weight 1 / P, with their exact moments.

    Raises ArithmeticError for entries that are not finite.
    """
    nodes = torch.linalg.eigvalsh(finite(hessian))
    moments = torch.stack([nodes.pow(power).mean() for power in POWERS])
    return Spectrum(nodes, torch.full_like(nodes, 1 / len(nodes)), moments, torch.zeros_like(moments))


def ihvp(hessian: Tensor, vectors: Tensor, damping: float) -> Tensor:
    """(H + damping I)^-1 V, (P, m) -> (P, m). It is written over `hessian`.

    H + damping I is indefinite as a rule, so it is factored as L D L^T with D of blocks of one or two (Bunch and
    Kaufman, "Some stable methods for calculating inertia and solving symmetric linear systems", 1977). Raises
    ArithmeticError for entries that are not finite, and where the matrix is singular to working precision: its factors
    have pivots of about the size of rounding then, and their solution leaves a residual as large as the vector.
    """
    finite(hessian).diagonal().add_(damping)
    factors, pivots, info = torch.linalg.ldl_factor_ex(hessian)
    solution = torch.linalg.ldl_solve(factors, pivots, vectors)
    residuals = (hessian @ solution - vectors).norm(dim=0)
    if bool(info) or not bool((residuals <= UNSOLVED * vectors.norm(dim=0)).all()):
        raise ArithmeticError(
            f"H + damping I is singular with damping={damping:g}, to the precision of {hessian.dtype}: an eigenvalue "
            "of H is -damping; take another damping"
        )
    return solution


def finite(values: Tensor) -> Tensor:
    """The values as they are. Raises ArithmeticError where one is not finite."""
    if not bool(values.isfinite().all()):
        raise ArithmeticError(
            "the Hessian has entries that are not finite; look for operations of the loss whose derivatives are not "
            "finite at this point, such as the root of zero"
        )
    return values
