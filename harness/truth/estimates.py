"""The verdict on random estimates, by their own standard errors, which must themselves be right."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

STANDARD_ERRORS = 4  # that an estimate may be off
INFORMATIVE = STANDARD_ERRORS  # by which the true values must differ from zeros, or the estimate says nothing
CALIBRATED = 0.1  # share of the standard errors below which errors are too small for these to be true
TELLING = 16  # entries from which on that is no accident


def judge(
    error: Tensor, standard_error: Tensor, true: Tensor, probes: int, tolerance: float, size: float
) -> dict[str, Any]:
    """The fields `standard_error`, `tolerance`, `status` and `message` of an estimate.

    `error`, `standard_error` and `true` (c,) are of the entries that were compared. Errors are relative to `size`: the
    norm of `true`, or more for true zeros. An estimate is wrong if

    - its error has more than four times the norm of the standard errors, or lies more than four standard errors along
      the true values (too small or too large as a whole);
    - zeros would pass as well: the true values are less than four standard errors long;
    - its errors are less than a tenth of the standard errors, over 16 entries or more: the true ratio is about 1;
    - a standard error is negative.

    A constant bias within the stated standard errors passes: one result does not show it.

    Along the true values t the standard error is taken as sqrt(2 sum t^2 s^2). This is the largest possible one for
    Hutchinson's diagonal, whose entries are correlated by H_ij^2 / probes.
    """
    size = size or 1.0
    length = float(true.norm())
    off = float(error.norm()) / size
    expected = float(standard_error.norm()) / size
    along = float(error @ true)
    spread = math.sqrt(2) * float((standard_error * true).norm())
    allowed = max(tolerance, STANDARD_ERRORS * expected)
    fault = None
    if bool((standard_error < 0).any()):
        fault = "a standard error is negative"
    elif off > allowed or abs(along) > max(tolerance * length**2, STANDARD_ERRORS * spread):
        fault = f"that is more than {STANDARD_ERRORS} standard errors, in norm or along the true values"
    elif INFORMATIVE * spread > length**2 > 0:
        fault = "with standard errors this large it says nothing, and could as well be zeros; take more probes"
    elif expected > tolerance and off < CALIBRATED * expected and len(error) >= TELLING:
        fault = f"standard errors this large contradict errors this small in {len(error)} entries"
    text = f"an estimate from {probes} probes: error {off:.1e}, standard error {expected:.1e}, relative to the truth"
    return {
        "standard_error": expected,
        "tolerance": allowed,
        "status": "ok" if fault is None else "wrong",
        "message": "; ".join(filter(None, [text, fault])),
    }
