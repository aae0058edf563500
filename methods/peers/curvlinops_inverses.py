"""curvlinops' inverse operators: by conjugate gradients, LSMR, and a truncated Neumann series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curvlinops import CGInverseLinearOperator, LSMRInverseLinearOperator, NeumannInverseLinearOperator
from torch import Tensor, nn

from methods.estimates import Bounded
from methods.peers.curvlinops_hessian import damped_hessian
from methods.ritz import check_budget
from methods.solving import norms

INVERSES = "cg", "lsmr", "neumann"
SMALLEST = 1e-30  # square of a residual that cg divides by; the library's 1e-10 ends all progress at residuals of 1e-5


def ihvp(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    vectors: Tensor,
    damping: float,
    inverse: str = "cg",
    tolerance: float = 1e-6,
    most_products: int = 1000,
    scale: float = 1.0,
) -> Bounded:
    """(H + damping I)^-1 V for the Hessian H and the columns of V (P, m), as (P, m).

    `inverse` is one of
    - cg: GPyTorch's conjugate gradients, for a positive definite matrix. It takes no step along negative curvature.
    - lsmr: SciPy's LSMR, for any matrix; each iteration takes two products.
    - neumann: `most_products` terms of the series with `scale`, for eigenvalues within (0, 2 / scale).

    cg and lsmr stop by the library's own criteria with `tolerance`, or after `most_products` for each vector. The
    library states no error; the relative residual is computed with one product more, and is the error that is stated.

    Raises ValueError for another `inverse`, a `tolerance` below 0 and fewer than two `most_products`; ArithmeticError
    where the series diverges; NotImplementedError for a loss that is no module.
    """
    check_budget(most_products, 2, tolerance)
    operator = damped_hessian(model, criterion, inputs, targets, damping)
    if inverse == "cg":
        inverted: Any = CGInverseLinearOperator(
            operator,
            tolerance=tolerance,
            stop_updating_after=tolerance,
            eps=SMALLEST,
            max_iter=most_products,
            max_tridiag_iter=0,
        )
    elif inverse == "lsmr":
        inverted = LSMRInverseLinearOperator(operator, atol=tolerance, btol=tolerance, maxiter=most_products // 2)
    elif inverse == "neumann":
        inverted = NeumannInverseLinearOperator(operator, num_terms=most_products, scale=scale, check_nan=False)
    else:
        raise ValueError(f"inverse must be one of {', '.join(INVERSES)}; found {inverse}")
    solution = inverted @ vectors
    residual = (operator @ solution - vectors).norm(dim=0) / norms(vectors)
    if inverse == "neumann" and not bool((residual <= 1).all()):
        raise ArithmeticError(
            f"the Neumann series diverges: after {most_products} terms the residual is {float(residual.max()):.3g} of "
            f"the vector, with damping={damping:g} and scale={scale:g}; H + damping I has an eigenvalue outside "
            f"(0, {2 / scale:.3g}): take more damping, a smaller scale, or a method for indefinite matrices, such as "
            "minres"
        )
    return Bounded(solution, residual, operator.products)
