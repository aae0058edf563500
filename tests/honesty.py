"""How far a result of any quantity is from the truth, and whether it is honest about it."""

import torch
from torch import Tensor

from methods.estimates import Bounded, Estimate, Spectrum
from tests.oracles import distance


def error(found, exact, quantity: str, hessian: Tensor, vectors: Tensor, damping: float) -> float:
    """The relative error of a result that states none.

    Of a product with the inverse, it is that of the nearest matrix whose inverse gives the product (Rigal and Gaches
    1967), so that it does not depend on the matrix's condition.
    """
    if quantity == "block_diagonal":
        found, exact = (torch.cat([block.flatten() for block in blocks]) for blocks in (found, exact))
    if isinstance(found, Spectrum):
        return distance(found.moments, exact)
    if quantity != "ihvp":
        return distance(found, exact)
    residuals, sizes = residual(found, hessian, vectors, damping)
    return float((residuals / sizes).max())


def residual(solution: Tensor, hessian: Tensor, vectors: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The norms (m,) of (H + damping I) x - v, and the sizes (m,) of what it is the difference of."""
    solution, vectors = solution.double(), vectors.double()
    damped = hessian + damping * torch.eye(len(hessian), dtype=torch.float64)
    return (damped @ solution - vectors).norm(dim=0), damped.norm() * solution.norm(dim=0) + vectors.norm(dim=0)


def is_honest(found, exact, quantity: str, hessian: Tensor, vectors: Tensor, damping: float, tolerance: float) -> bool:
    """Whether the truth is within what an estimate, a bounded result or a random spectrum states of its error."""
    if isinstance(found, Estimate):
        return bool((found.value - exact).norm() <= 4 * found.standard_error.norm() + tolerance * exact.norm())
    if isinstance(found, Spectrum):
        off = (found.moments.double() - exact).abs()
        return bool((off <= 4 * found.moment_errors + tolerance * exact.norm()).all())
    assert isinstance(found, Bounded)
    if quantity == "ihvp":
        residuals, sizes = residual(found.value, hessian, vectors, damping)
        return bool((residuals <= 2 * found.error * vectors.double().norm(dim=0) + tolerance * sizes).all())
    off = (found.value.double() - exact).abs()
    if quantity == "eigenvalues":
        return bool((off <= found.error + tolerance * hessian.norm()).all())
    return bool(off.norm() <= found.error.double().norm() + tolerance * exact.norm())
