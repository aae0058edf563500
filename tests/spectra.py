"""Symmetric matrices with a known spectrum, as the Hessians of quadratic losses."""

import pytest
import torch
from torch import Tensor

from methods import vmap_hvp


def matrix_of(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix (P, P) with these eigenvalues and random eigenvectors, in float64."""
    size = len(eigenvalues)
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(drawn).Q
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def quadratic(matrix: Tensor):
    """A loss whose Hessian is the matrix everywhere, and a point (P,)."""
    return lambda theta: theta @ (matrix @ theta) / 2, torch.zeros(len(matrix), dtype=matrix.dtype)


def extremes(matrix: Tensor, k: int) -> Tensor:
    """The k eigenvalues of largest magnitude, in descending magnitude, then the lowest one."""
    values = torch.linalg.eigvalsh(matrix.double())
    return torch.cat([values[values.abs().argsort(descending=True)[:k]], values[:1]])


def nearest(found: Tensor, matrix: Tensor) -> Tensor:
    """The distance of each number from the nearest eigenvalue."""
    return (found.double()[:, None] - torch.linalg.eigvalsh(matrix.double())).abs().min(1).values


def rows_multiplied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that products of `methods.vmap_hvp` multiply from now on, as they do so."""
    seen: list[int] = []
    plain = vmap_hvp.product

    def counted(*arguments):
        product = plain(*arguments)

        def multiply(rows: Tensor) -> Tensor:
            seen.append(len(rows))
            return product(rows)

        return multiply

    monkeypatch.setattr(vmap_hvp, "product", counted)
    return seen
