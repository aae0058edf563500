"""The true eigenvalues, trace, spectrum and inverse products of a symmetric matrix, in float64.

Up to `measure.full_up_to` parameters they follow from the whole matrix. Beyond, the eigenvalues are those of ARPACK and
the inverse products those of MINRES, on products with the matrix; both are checked by their residuals. A trace needs
every entry of the diagonal, and a spectrum every eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, minres
from torch import Tensor

from harness.job import Measure
from harness.problems import ProblemError
from harness.truth.products import Products

QUANTITIES = ("eigenvalues", "trace", "spectrum", "ihvp")
FURTHER = 4  # eigenvalues beyond those that are asked for, so that near ties are known
RESIDUAL = 1e-10  # of an eigenvector over the largest eigenvalue, and of a solution over its vector, that is converged
REFINEMENTS = 4  # solves with the residual, where one solve does not reach that
STEPS = 20_000  # of MINRES at most, in one solve
CANCELLED = 1e-6  # of the sum of the rows' largest entries: a trace below it is zero up to rounding, or nearly
ROUNDED = 1e-13  # of the size of matrices, up to which products with their difference are zero
SINGULAR = 1e-14  # of the largest |eigenvalue + damping|: a smallest one below it is zero up to rounding


@dataclass(frozen=True)
class Answer:
    """The true answer to a question about a symmetric matrix H, and what its errors are relative to."""

    value: Tensor  # (k + 1,), (), all eigenvalues (P,) ascending for a spectrum, or (P, m)
    size: float  # largest |eigenvalue|, |trace| (`trace_of`), mean |eigenvalue|, or the norm of the solution
    amplification: float = 1.0  # of relative rounding errors of H, in the answer
    eigenvalues: Tensor | None = None  # (c,) known ones: all, or those of large magnitude and the lowest
    rest: Tensor | None = None  # (2,) the interval in which all others lie; None where all are known
    terms: float = 0.0  # of a trace: the sum of the rows' largest entries, at least |trace| and the Frobenius norm
    vectors: Tensor | None = None  # (P, m) of an ihvp
    damping: float = 0.0  # of an ihvp
    norm: float = 0.0  # of an ihvp: the largest |eigenvalue| of H


def require_computable(quantity: str, params: int, k: int, measure: Measure) -> None:
    """Raise ProblemError where a question makes no sense for P parameters, or has no answer that can be computed."""
    if quantity == "eigenvalues" and k > params:
        raise ProblemError(f"k={k} eigenvalues were asked for, and there are P={params} parameters; set k={params}")
    if quantity == "spectrum" and params > measure.full_up_to:
        raise ProblemError(
            f"a true spectrum takes all eigenvalues, and there are P={params} parameters; take a smaller problem, or "
            f"raise measure.full_up_to={measure.full_up_to} (it takes 8 P^2 bytes)"
        )


def trace_of(diagonal: Tensor, row_sizes: Tensor, params: int, measure: Measure) -> Answer:
    """The trace, of all entries of the diagonal (P,) and the largest entry of each row (P,).

    A trace whose terms cancel almost wholly has errors relative to the sum of the rows' largest entries. Raises
    ProblemError where there was no time for all entries.
    """
    if len(diagonal) < params:
        raise ProblemError(
            f"a true trace takes all P={params} entries of the diagonal, and there was time for {len(diagonal)}; take "
            f"a smaller problem, or raise measure.full_up_to={measure.full_up_to}, up to which there is no time limit"
        )
    value, terms = diagonal.sum(), float(row_sizes.sum())
    size = abs(float(value)) if abs(float(value)) > CANCELLED * terms else terms
    return Answer(value, size, amplification=terms / size if size else 1.0, terms=terms)


def of_matrix(matrix: Tensor, quantity: str, k: int, vectors: Tensor | None, damping: float, rounding: float) -> Answer:
    """The answer of a whole matrix (P, P). `rounding` is the size of H for its rounding where H is zero."""
    if not bool(matrix.isfinite().all()):
        raise ProblemError("the true Hessian in float64 is not finite at this point; take another one")
    eigenvalues, basis = torch.linalg.eigh((matrix + matrix.T) / 2)
    size = float(eigenvalues.abs().max())
    if quantity == "eigenvalues":
        return Answer(_extremes(eigenvalues, k), size, eigenvalues=eigenvalues)
    if quantity == "spectrum":
        mean = float(eigenvalues.abs().mean())
        return Answer(eigenvalues, mean, amplification=size / mean if mean else 1.0, eigenvalues=eigenvalues)
    assert vectors is not None
    shifted = eigenvalues + damping
    smallest, largest = float(shifted.abs().min()), float(shifted.abs().max())
    if smallest <= SINGULAR * largest:
        raise _singular(float(eigenvalues[shifted.abs().argmin()]), damping)
    solution = basis @ ((basis.T @ vectors) / shifted[:, None])
    amplification = max(1.0, max(size, rounding) / smallest)
    return Answer(solution, float(solution.norm()), amplification, vectors=vectors, damping=damping, norm=size)


def of_zeros(quantity: str, k: int, vectors: Tensor | None, damping: float, rounding: float) -> Answer:
    """The answer for a matrix that is zero up to `rounding`. Raises ProblemError where it has no inverse."""
    if quantity == "eigenvalues":
        return Answer(torch.zeros(k + 1, dtype=torch.float64), 0.0, eigenvalues=torch.zeros(k + 1, dtype=torch.float64))
    assert vectors is not None
    if not damping:
        raise _singular(0.0, damping)
    solution = vectors / damping
    return Answer(solution, float(solution.norm()), max(1.0, rounding / damping), vectors=vectors, damping=damping)


def _singular(eigenvalue: float, damping: float) -> ProblemError:
    return ProblemError(
        f"H + damping I is singular: H has the eigenvalue {eigenvalue:.6g}, and damping={damping}; set another damping"
    )


def of_products(products: Products, quantity: str, k: int, vectors: Tensor | None, damping: float) -> Answer:
    """The answer for a matrix that is known through its products. Raises ProblemError where nothing converges."""
    if quantity == "eigenvalues":
        if k + FURTHER >= products.params:  # ARPACK has all but one at most
            whole = products.columns(torch.arange(products.params))
            return of_matrix(whole, quantity, k, vectors, damping, 0.0)
        known = _outer(products, k + FURTHER)
        lowest, inside = _lowest(products, known), known.abs().min()
        value = torch.cat([_largest(known, k), lowest])
        rest = torch.cat([torch.maximum(lowest, -inside), inside[None]])
        if not bool((known == lowest).any()):
            known = torch.cat([known, lowest])
        return Answer(value, float(known.abs().max()), eigenvalues=known, rest=rest)
    assert vectors is not None
    norm = float(_outer(products, 1, tolerance=1e-3).abs().max())
    solution = torch.stack([_solution(products, vector, damping) for vector in vectors.unbind(1)], dim=1)
    # The smallest |eigenvalue + damping| is not known here. |x| / |v| is what the inverse makes of a random vector v,
    # and so of the rounding of H x.
    amplification = max(1.0, norm * float((solution.norm(dim=0) / vectors.norm(dim=0)).max()))
    return Answer(solution, float(solution.norm()), amplification, vectors=vectors, damping=damping, norm=norm)


def _extremes(eigenvalues: Tensor, k: int) -> Tensor:
    """The k of largest magnitude, in descending magnitude, then the lowest one: (k + 1,)."""
    return torch.cat([_largest(eigenvalues, k), eigenvalues.min()[None]])


def _largest(eigenvalues: Tensor, k: int) -> Tensor:
    return eigenvalues[eigenvalues.abs().argsort(descending=True, stable=True)[:k]]


def _operator(apply: Callable[[Tensor], Tensor], params: int) -> LinearOperator:
    def times(vector: numpy.ndarray) -> numpy.ndarray:
        return apply(torch.from_numpy(numpy.ascontiguousarray(vector).reshape(-1))).numpy()

    return LinearOperator((params, params), matvec=times, dtype=numpy.float64)  # pyright: ignore[reportCallIssue]


def _outer(products: Products, count: int, tolerance: float = 0.0) -> Tensor:
    """The eigenvalues (count,) of largest magnitude, ascending."""
    return _checked(products.one, products.params, min(count, products.params - 1), tolerance, 0.0)


def _lowest(products: Products, known: Tensor) -> Tensor:
    """The lowest eigenvalue (1,): a negative one among the `known` largest ones, or the farthest from the highest."""
    if float(known.min()) < 0:
        return known.min()[None]
    shift = float(known.max())
    found = _checked(lambda vector: products.one(vector) - shift * vector, products.params, 1, RESIDUAL / 10, shift)
    return found + shift


def _checked(apply: Callable[[Tensor], Tensor], params: int, count: int, tolerance: float, size: float) -> Tensor:
    """Eigenvalues of largest magnitude by ARPACK, of a matrix that is the difference of some of this `size`.

    Raises ProblemError unless their residuals are small.
    """
    start = torch.randn(params, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if float(apply(start).norm()) <= ROUNDED * size * float(start.norm()):  # ARPACK does not start from zeros
        return torch.zeros(count, dtype=torch.float64)
    try:
        values, vectors = eigsh(_operator(apply, params), count, which="LM", v0=start.numpy(), tol=tolerance)  # pyright: ignore[reportArgumentType]
    except ArpackError as error:
        raise ProblemError(f"the true eigenvalues did not converge ({error}); {_ADVICE}") from None
    found = torch.from_numpy(values)
    residuals = [
        float((apply(vector) - value * vector).norm())
        for value, vector in zip(found, torch.from_numpy(vectors.copy()).unbind(1), strict=True)
    ]
    if max(residuals) > max(RESIDUAL, 10 * tolerance) * max(float(found.abs().max()), size):
        raise ProblemError(f"the true eigenvalues have a residual of {max(residuals):.1e}; {_ADVICE}")
    return found


_ADVICE = "take a smaller problem, or raise measure.full_up_to to P"


def _solution(products: Products, vector: Tensor, damping: float) -> Tensor:
    """(H + damping I)^-1 v (P,) by MINRES with iterative refinement. Raises ProblemError where it does not converge."""

    def apply(at: Tensor) -> Tensor:
        return products.one(at) + damping * at

    operator, size = _operator(apply, products.params), float(vector.norm())
    solution, residual, left = torch.zeros_like(vector), vector, size
    for _ in range(REFINEMENTS):
        step, _ = minres(operator, residual.numpy(), rtol=1e-12, maxiter=STEPS)
        solution = solution + torch.from_numpy(step)
        residual = vector - apply(solution)
        left = float(residual.norm())
        if left <= RESIDUAL / 100 * size:
            break
    if not left <= RESIDUAL * size or not math.isfinite(left):
        raise ProblemError(
            f"MINRES leaves a residual of {left / size:.1e} of the true product with the inverse: H + damping I is "
            f"nearly singular (damping={damping}); set another damping, take a smaller problem, or raise "
            "measure.full_up_to to P"
        )
    return solution
