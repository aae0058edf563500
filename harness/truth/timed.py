"""Whether what was timed is what was checked: results of the time pass against that of the agreement pass.

It needs no torch: the passes are other processes, whose numbers (`harness.truth.sketch.bilinear`) are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

APART = 3.0  # times the tolerance: two right results may be 2 apart, and 32 numbers know a distance to some 12 %
STRAY = 10.0  # the same for a single number, which varies as a normal variable of that standard deviation


def verdict(seen: Mapping[str, Any], timed: Mapping[str, Any], checked: Mapping[str, Any] | None) -> dict[str, Any]:
    """`status` and `message` where what was timed cannot be believed; else nothing.

    `seen` are the fields of a record, `timed` what the time pass told of its results, `checked` what the agreement pass
    told of its own (`numbers`, and the `size` of what cancels, where the true values are zero up to rounding). A result
    is another one if it is farther from that than three times what is tolerated, relative to the norm or to that size;
    for a random estimate the tolerance is that of its standard errors. A fault that the time pass itself has found
    (`fault`: a result of another kind, a cache) comes last: it matters only where the result that was checked is right.
    """
    differs = {}
    if checked is not None and seen.get("tolerance") is not None and "first" in timed:
        scale = checked["size"] or math.hypot(*checked["numbers"]) or 1.0
        differs = _compared(checked["numbers"], scale, seen["tolerance"], timed)
    return differs or timed.get("fault") or {}


def _compared(numbers: Sequence[float], scale: float, tolerance: float, timed: Mapping[str, Any]) -> dict[str, Any]:
    for which in ("first", "last"):
        distance = _distance(timed[which], numbers) / scale
        if not distance <= APART * tolerance:
            return _wrong(f"the {which} timed call", distance, tolerance)
    products = timed["products"]
    strays = [_distance([product], products[:1]) / scale for product in products]
    wrong = [stray for stray in strays if not stray <= STRAY * tolerance]
    if wrong:
        return _wrong(f"{len(wrong)} of {len(products)} timed calls", max(wrong), tolerance)
    return {}


def _distance(one: Sequence[float | None], other: Sequence[float | None]) -> float:
    """Infinite where a number is None, as one that is not finite is written."""
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return math.hypot(*(a - b for a, b in known)) if len(known) == len(one) else math.inf


def _wrong(which: str, distance: float, tolerance: float) -> dict[str, Any]:
    message = (
        f"{which} returned another result than the call that was checked, about {distance:.1e} away, relative to its "
        f"norm ({tolerance:.0e} is tolerated); so its times are not those of a right result"
    )
    return {"status": "wrong", "message": message}
