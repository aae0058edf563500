"""The largest eigenvalues of the Hessian and its lowest one, by Lanczos's method with thick restarts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.estimates import Bounded
from methods.products import Products
from methods.ritz import bounded, check_budget, check_count, random_vector, rounding, wanted


def eigenvalues(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    k: int,
    hvp: str = "reverse_over_reverse",
    tolerance: float = 1e-5,
    most_products: int = 1000,
    subspace: int | None = None,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian of `loss` at `theta` (P,), then the lowest one.

    All are taken from one Krylov space of a random vector, which is orthogonalised in full. Once it has `subspace`
    dimensions (None: 3 k, at least 30), it is restarted from its best approximations and the residual that they share.
    It ends where the residual norms are at most `tolerance` times the largest magnitude, or after `most_products`
    products by `hvp` (see `methods.products`). The error of each value is its residual norm, with what rounding adds.

    An eigenvalue that occurs several times may be found too few times: a Krylov space holds one vector of each.

    Raises ValueError for k above P, a subspace of less than k + 2 dimensions, fewer than k products, and another `hvp`.

    Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
    """
    params = theta.numel()
    check_count(k, params)
    check_budget(most_products, k, tolerance)
    width = min(params, max(3 * k, 30) if subspace is None else subspace)
    if width < min(params, k + 2):
        raise ValueError(f"subspace must have at least k + 2 = {k + 2} dimensions; found {subspace}")
    products = Products(loss, theta, hvp)
    generator = torch.Generator().manual_seed(seed)
    epsilon = torch.finfo(theta.dtype).eps
    least = max(tolerance, rounding(params, theta.dtype))
    basis = theta.new_zeros(width + 1, params)  # orthonormal rows
    projected = theta.new_zeros(width, width)  # the Hessian in that basis
    basis[0] = _orthonormal(random_vector(theta, generator), basis[:0])
    done = 0
    while True:
        while done < width and (done < k or products.count < most_products):
            image = products.one(basis[done])
            done += 1
            overlaps, rest = _orthogonalised(image, basis[:done])
            projected[:done, done - 1] = projected[done - 1, :done] = overlaps
            coupling = rest.norm()
            if done < params and coupling <= 10 * epsilon * image.norm():
                # The space is invariant: go on with a vector outside it.
                rest = random_vector(theta, generator)
                coupling = torch.zeros_like(coupling)
            if done < params:
                basis[done] = _orthonormal(rest, basis[:done])
        values, rotation = torch.linalg.eigh(projected[:done, :done])
        errors = (coupling * rotation[-1]).abs()
        converged = bool((errors[wanted(values, k)] <= least * values.abs().max()).all())
        if converged or done == params or products.count >= most_products:
            return bounded(values, errors, k, params, products.count, products.error)
        kept = _kept(values, k, (width - k - 1) // 2)
        last = basis[done].clone()
        done = len(kept)
        basis[:done] = rotation[:, kept].T @ basis[: len(rotation)]
        basis[done] = last
        projected.zero_()
        projected.diagonal()[:done] = values[kept]


def _kept(values: Tensor, k: int, more: int) -> Tensor:
    """Places of the approximations that a restart keeps: those wanted, and `more` of the next largest magnitude."""
    return wanted(values, k + more).unique()


def _orthogonalised(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Overlaps (j,) of a vector (P,) with orthonormal rows (j, P), and what is left of it without them.

    It is done twice, which is enough in floating point (Giraud, Langou, Rozloznik and van den Eshof, 2005).
    """
    first = basis @ vector
    rest = vector - first @ basis
    second = basis @ rest
    return first + second, rest - second @ basis


def _orthonormal(vector: Tensor, basis: Tensor) -> Tensor:
    """What is left of a vector (P,) without orthonormal rows (j, P), of norm 1."""
    rest = _orthogonalised(vector, basis)[1]
    return rest / rest.norm()
