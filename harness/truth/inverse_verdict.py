"""The verdict on products with the inverse of H + damping I: exact, or with their residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.truth.reference import Reference
from harness.truth.verdict import Fields, ok, within, wrong

STATED = 2.0  # times what is stated, up to which a residual is what it is said to be
EXACT, SKETCHED = 1.01, 1.5  # the same for `covered`: residuals from the whole matrix, or from random directions
LARGEST = 0.3  # error up to which a solution is right, where rounding is amplified to more: zeros have an error of 1


def judge(value: Tensor, stated: Tensor | None, truth: Reference, tolerance: float, dtype: torch.dtype) -> Fields:
    """The verdict on products (P, m), with residuals (m,) if stated.

    A solution may be off by the rounding of H, amplified by the condition number: that is the tolerance. Its residual
    |(H + damping I) x - v| / |v| may be off by that rounding itself, which no condition number enters. So a nearly
    singular system does not excuse the solution of another one, and a solution whose residual is rounding is right even
    where the tolerance is large (backward stability: Higham, "Accuracy and stability of numerical algorithms", 2002).
    """
    answer = truth.answer
    assert answer is not None
    assert answer.vectors is not None
    error = float((value - answer.value).norm()) / answer.size
    fields: Fields = {"relative_error": error}
    lengths = answer.vectors.norm(dim=0)
    residuals, exact = _residuals(value, truth)
    residuals = residuals / lengths
    rounding = _rounding(truth, tolerance, dtype)
    if stated is None:
        fields["tolerance"] = min(tolerance, LARGEST)
        return fields | _exact(error, tolerance, residuals, rounding if exact else STATED * rounding)
    covered = residuals <= (EXACT if exact else SKETCHED) * stated + rounding
    fields |= {
        "stated_error": float(stated.max()),
        "covered": bool(covered.all()),
        "tolerance": max(min(tolerance, LARGEST), error),
    }
    text = f"relative error {error:.1e}; residual {float(residuals.max()):.1e}, stated {float(stated.max()):.1e}"
    if bool((stated < 0).any()):
        return fields | wrong(f"{text}; a residual is negative")
    if bool((residuals > STATED * stated + rounding).any()) or bool((stated > STATED * residuals + rounding).any()):
        return fields | wrong(f"{text}: what is stated is not the residual |(H + damping I) x - v| / |v|")
    if bool((stated >= 1).any()):
        return fields | wrong(f"{text}; zeros have a residual of 1: take more products, or another method")
    return fields | ok(text)


def _rounding(truth: Reference, tolerance: float, dtype: torch.dtype) -> Tensor:
    """What rounding of H, and of the solution, makes of the residuals (m,) of a right solution."""
    answer = truth.answer
    assert answer is not None
    assert answer.vectors is not None
    norm = max(answer.norm, truth.scale.sizes.get(dtype, 0.0)) + abs(answer.damping)
    return tolerance / answer.amplification * (norm * answer.value.norm(dim=0) / answer.vectors.norm(dim=0) + 1)


def coarseness(truth: Reference, tolerance: float, dtype: torch.dtype) -> float:
    """The largest of the residuals that rounding explains: zeros have one of 1."""
    return float(_rounding(truth, tolerance, dtype).max())


def _exact(error: float, tolerance: float, residuals: Tensor, rounding: Tensor) -> Fields:
    """The verdict on a solution that states no residual."""
    if error > tolerance:
        return within(error, tolerance)
    if bool((residuals <= rounding).all()):
        if error <= LARGEST:
            return ok()
        return {
            "status": "error",
            "message": f"relative error {error:.1e}: H + damping I is nearly singular, so that rounding explains it "
            "(the residual is rounding); use a finer dtype, or set a larger damping",
        }
    place = int((residuals - rounding).argmax())
    return wrong(
        f"relative error {error:.1e}; it solves another system: the residual |(H + damping I) x - v| / |v| is "
        f"{float(residuals[place]):.1e}, and rounding makes {float(rounding[place]):.0e} of it at most"
    )


def _residuals(solution: Tensor, truth: Reference) -> tuple[Tensor, bool]:
    """The norms (m,) of (H + damping I) x - v, and whether they are exact; else they are from random directions."""
    answer = truth.answer
    assert answer is not None
    assert answer.vectors is not None
    if truth.directions is None:
        return (truth.values @ solution + answer.damping * solution - answer.vectors).norm(dim=0), True
    assert truth.products is not None
    seen = truth.products.T @ solution + truth.directions.T @ (answer.damping * solution - answer.vectors)
    return seen.square().mean(0).sqrt(), False
