"""The verdict on a trace: exact, with a bound of its error, or estimated."""

from __future__ import annotations

from typing import Any

from scipy import stats

from harness.truth.estimates import STANDARD_ERRORS
from harness.truth.kinds import Bounded, Estimate
from harness.truth.spectral import Answer
from harness.truth.verdict import Fields, ok, within, wrong

LEVEL = 0.95  # of an interval
# Probes of which an estimate has at least as many when it is asked how many standard errors it may be off: 33 then.
# Two could be off by 10,050, so that any small standard error would do.
FEW = 4


def judge(result: Any, answer: Answer, tolerance: float, size: float) -> Fields:
    """The verdict on a trace (), an Estimate or a Bounded of it. Errors are relative to `size`."""
    if isinstance(result, Estimate):
        return _estimated(result, answer, tolerance, size)
    if isinstance(result, Bounded):
        error = abs(float(result.value - answer.value)) / size
        return {"relative_error": error} | _bounded(error, float(result.error) / size, tolerance)
    error = abs(float(result - answer.value)) / size
    return {"relative_error": error} | within(error, tolerance)


def _bounded(error: float, stated: float, tolerance: float) -> Fields:
    """The verdict on a number that states a bound of its error."""
    held = error <= stated + tolerance
    fields = {"stated_error": stated, "covered": held, "tolerance": max(tolerance, stated)}
    text = f"error {error:.1e}, stated {stated:.1e}"
    if stated < 0:
        return fields | wrong(f"{text}: a stated error is negative")
    if not held:
        return fields | wrong(f"{text}: the error is larger than stated")
    if stated >= 1:
        return fields | wrong(f"{text}: an error as large as the value says nothing")
    return fields | ok(text)


def _estimated(estimate: Estimate, answer: Answer, tolerance: float, size: float) -> Fields:
    """The verdict on a random number, whose standard error is of few probes: Student's t says how far off it may be."""
    degrees = max(estimate.probes - 1, 1)
    error, expected = abs(float(estimate.value - answer.value)), float(estimate.standard_error)
    most = float(stats.t.isf(stats.norm.sf(STANDARD_ERRORS), max(degrees, FEW - 1)))
    allowed = most * expected
    half = float(stats.t.isf((1 - LEVEL) / 2, degrees)) * expected
    fields = {
        "relative_error": error / size,
        "standard_error": expected / size,
        "stated_error": half / size,
        "covered": error <= half + tolerance * size,
        "tolerance": max(tolerance, allowed / size),
    }
    text = f"an estimate from {estimate.probes} probes: error {error / size:.1e}, standard error {expected / size:.1e}"
    if expected < 0:
        return fields | wrong(f"{text}; a standard error is negative")
    if error > max(allowed, tolerance * size):
        return fields | wrong(f"{text}: off by more than chance allows ({most:.1f} standard errors)")
    if STANDARD_ERRORS * expected > max(answer.terms, size):
        return fields | wrong(
            f"{text}; with a standard error this large it says nothing, and could as well be zero; take more probes"
        )
    return fields | ok(text)
