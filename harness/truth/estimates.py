"""Random estimates: judged by their own standard errors, which must themselves be right."""

from __future__ import annotations

from typing import Any

from torch import Tensor

STANDARD_ERRORS = 4  # that an estimate may be off
CALIBRATED = 0.1  # errors below this share of the standard errors are too small for these to be true
TELLING = 16  # entries from which on that is no accident


def judge(
    error: Tensor, standard_error: Tensor, size: float, probes: int, tolerance: float, zero: bool
) -> dict[str, Any]:
    """The fields `standard_error`, `tolerance`, `status` and `message` of an estimate.

    `error` and `standard_error` (c,) are of the entries that were compared, whose true values have the norm `size`, or
    are `zero`. The estimate is ok if its error has at most four times the norm of the standard errors, and both are less
    than `size`: all zeros would be as near otherwise. Over 16 entries or more, errors of less than a tenth of the
    standard errors show that these are not what they are called, since the true ratio is about 1.
    """
    size = size or 1.0
    off, expected = float(error.norm()) / size, float(standard_error.norm()) / size
    allowed = max(tolerance, STANDARD_ERRORS * expected)
    fault = None
    if bool((standard_error < 0).any()):
        fault = "a standard error is negative"
    elif max(off, expected) >= 1 and max(off, expected) > tolerance and not zero:
        fault = "that says nothing, since zeros would be as near; take more probes"
    elif off > allowed:
        fault = f"that is more than {STANDARD_ERRORS} standard errors"
    elif expected > tolerance and off < CALIBRATED * expected and len(error) >= TELLING:
        fault = f"standard errors this large contradict errors this small in {len(error)} entries"
    text = f"an estimate from {probes} probes: error {off:.1e}, standard error {expected:.1e}, both relative to the "
    return {
        "standard_error": expected,
        "tolerance": allowed,
        "status": "ok" if fault is None else "wrong",
        "message": "; ".join(filter(None, [f"{text}diagonal", fault])),
    }
