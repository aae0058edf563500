"""The verdict on eigenvalues, a trace, a spectrum, or products with an inverse.

- Exact: right up to the tolerance, relative to the true answer's `size` (`harness.truth.spectral.Answer`).
- A random estimate of a trace: within what its standard error allows.
- Eigenvalues with residuals: each is within its residual of a true one, and none of the largest was missed.
- A solution with residuals: these are the true residuals.
- A spectrum: its moments are the true ones within their standard errors.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.truth import eigenvalue_verdict, inverse_verdict, spectrum_verdict, trace_verdict
from harness.truth.kinds import Bounded, Spectrum
from harness.truth.reference import Reference
from harness.truth.spectral import Answer
from harness.truth.verdict import Fields

UNITS = 100  # of rounding of the matrix that a right answer may show, times the answer's amplification
# Largest relative error of an exact answer that is right, where rounding is not amplified.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def tolerance(answer: Answer, dtype: torch.dtype, of_matrix: float) -> float:
    """Largest relative error of an answer that is right; `of_matrix` is that of a right matrix, which is amplified."""
    return max(TOLERANCE[dtype], answer.amplification * max(UNITS * torch.finfo(dtype).eps, of_matrix))


def unjudged(answer: Answer, dtype: str) -> str:
    """Why no answer can be judged in this dtype, where rounding of the matrix is amplified too much."""
    cause, remedy = "few eigenvalues outweigh all others", "take another problem"
    if answer.terms:
        cause = "the trace's terms cancel"
    if answer.vectors is not None:
        cause, remedy = "H + damping I is nearly singular", "set a larger damping"
    finer = "use float64, or " if dtype != "float64" else ""
    return f"{cause}: rounding in {dtype} is amplified {answer.amplification:.0e} times; {finer}{remedy}"


def coarseness(truth: Reference, limit: float, dtype: torch.dtype) -> float:
    """The number that tells how little a verdict says: that of zeros is 1."""
    assert truth.answer is not None
    return limit if truth.answer.vectors is None else inverse_verdict.coarseness(truth, limit, dtype)


def judge(result: Any, truth: Reference, limit: float, dtype: torch.dtype) -> Fields:
    """The fields of a verdict on a plain, finite result on the CPU, in float64 but of this dtype originally."""
    answer = truth.answer
    assert answer is not None
    size = truth.size_of_errors(dtype) or answer.size or 1.0
    if isinstance(result, Spectrum):
        return spectrum_verdict.judge(result, answer, limit, size)
    if answer.vectors is None and not answer.value.dim():
        return trace_verdict.judge(result, answer, limit, size)
    value, stated = (result.value, result.error) if isinstance(result, Bounded) else (result, None)
    if answer.vectors is not None:
        return inverse_verdict.judge(value, stated, truth, limit, dtype)
    return eigenvalue_verdict.judge(value, stated, answer, limit, size)
