"""The verdict on approximations: how far they are from the true matrix, and what of it a damped Newton step keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.truth.reference import Reference
from harness.truth.shards import BLOCK


class NewtonStep(NamedTuple):
    """What a damped Newton step needs beside the matrix."""

    gradient: Tensor  # (P,) at theta, in float64 on the CPU
    damping: float  # added to the diagonal


def judge(found: Tensor, truth: Reference, relative_error: float, newton: NewtonStep | None) -> dict[str, Any]:
    """`approximation`, `status` and `message` of an approximation (P, P), and how it compares with the true matrix.

    - `cosine` is that of the angle between them in the Frobenius inner product; from products with Gaussian directions
      where not all columns are known.
    - `newton_error` is |(A + d I)^-1 g - (H + d I)^-1 g| over |(H + d I)^-1 g|, with the gradient g and the damping d.
    - `logdet_error` is log |det(A + d I)| less log |det(H + d I)|, divided by P. The signs of the determinants are left
      out, since a damped Hessian is often not positive definite; the message says so.

    The last two are there where all columns are known, and both matrices are regular.
    """
    columns_known = truth.values.shape[1] == len(truth.values)
    fields: dict[str, Any] = {"approximation": True, "status": "ok", "cosine": _cosine(found, truth)}
    remarks = [_described(relative_error, fields["cosine"])]
    if newton is not None and columns_known:
        damped, true = _damped(found, newton.damping), _damped(truth.values, newton.damping)
        fields |= _newton(damped, true, newton.gradient)
        remarks += _remarks(damped, true, newton.damping)
    return fields | {"message": "; ".join(remarks)}


def _described(relative_error: float, cosine: float | None) -> str:
    shown = "" if cosine is None else f", cosine {cosine:.3f}"
    return f"an approximation: relative error {relative_error:.2g}{shown}"


def _cosine(found: Tensor, truth: Reference) -> float | None:
    """The cosine of the angle between the matrices, or between their products; None where one of them is zero."""
    if truth.directions is None or truth.products is None:
        one, other = found.to(torch.float64), truth.values
    else:
        blocks = [block.to(torch.float64) @ truth.directions for block in found.split(BLOCK)]
        one, other = torch.cat(blocks), truth.products
    sizes = float(one.norm() * other.norm())
    return float((one * other).sum()) / sizes if sizes else None


def _damped(matrix: Tensor, damping: float) -> Tensor:
    damped = matrix.to(torch.float64, copy=True)
    damped.diagonal().add_(damping)
    return damped


def _newton(found: Tensor, true: Tensor, gradient: Tensor) -> dict[str, float | None]:
    """The errors of the Newton step and of the logarithm of the determinant; None where a matrix is singular."""
    (step, logdet), (true_step, true_logdet) = _solved(found, gradient), _solved(true, gradient)
    error = float((step - true_step).norm() / true_step.norm())
    logdet_error = (logdet - true_logdet) / len(gradient)
    return {
        "newton_error": error if math.isfinite(error) else None,
        "logdet_error": logdet_error if math.isfinite(logdet_error) else None,
    }


def _solved(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
    """The solution x (P,) of matrix x = gradient, and log |det|; not finite for a singular matrix."""
    factors, pivots = torch.linalg.lu_factor_ex(matrix)[:2]
    solution = torch.linalg.lu_solve(factors, pivots, gradient[:, None])[:, 0]
    return solution, float(factors.diagonal().abs().log().sum())


def _remarks(found: Tensor, true: Tensor, damping: float) -> Iterator[str]:
    for name, matrix in (("the true matrix", true), ("the approximation", found)):
        if bool(torch.linalg.cholesky_ex(matrix).info):
            yield f"{name} + {damping:g} I is not positive definite"
