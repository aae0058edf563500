"""Whether the timed results are those that were checked: the time pass compared with the agreement pass.

The passes are other processes. Their numbers (`harness.truth.sketch.bilinear`) are compared here, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FRESH_CALL = "fresh call"  # the field `running` while the time pass calls the method at a fresh point
DISTANT = 3.0  # times the tolerance: two right results may be 2 apart, and 32 numbers know a distance to some 12 %
STRAY = 10.0  # the same for a single number, which varies as a normal variable of that standard deviation


def verdict(seen: Mapping[str, Any], timed: Mapping[str, Any], checked: Mapping[str, Any] | None) -> dict[str, Any]:
    """`status` and `message` where the timed results cannot be believed; else nothing.

    - `seen` are the fields of a record.
    - `timed` is what the time pass reports of its results (`ResultRecorder.fields`).
    - `checked` is what the agreement pass reports of its result: its `numbers`, and the `size` of what cancels where
      the true values are zero up to rounding.

    A timed result is another one if it is farther from the checked one than three times the tolerance, relative to the
    norm or to that size. The tolerance of a random estimate is that of its standard errors. The time pass itself may
    report a `fault`: a result of another kind, or a cache. It comes last, since it matters only where the checked
    result is right.
    """
    differs = {}
    if checked is not None and seen.get("tolerance") is not None and "first" in timed:
        scale = checked["size"] or math.hypot(*checked["numbers"]) or 1.0
        differs = _compared(checked["numbers"], scale, seen["tolerance"], timed)
    return differs or timed.get("fault") or {}


def _compared(numbers: Sequence[float], scale: float, tolerance: float, timed: Mapping[str, Any]) -> dict[str, Any]:
    for which in ("first", "last"):
        distance = _distance(timed[which], numbers) / scale
        if not distance <= DISTANT * tolerance:
            return _wrong(f"the {which} timed call", distance, tolerance)
    products = timed["products"]
    strays = [_distance([product], products[:1]) / scale for product in products]
    wrong = [stray for stray in strays if not stray <= STRAY * tolerance]
    if wrong:
        return _wrong(f"{len(wrong)} of {len(products)} timed calls", max(wrong), tolerance)
    return {}


def _distance(one: Sequence[float | None], other: Sequence[float | None]) -> float:
    """The Euclidean distance; infinite where a number is None, which stands for one that is not finite."""
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return math.hypot(*(a - b for a, b in known)) if len(known) == len(one) else math.inf


def _wrong(which: str, distance: float, tolerance: float) -> dict[str, Any]:
    message = (
        f"{which} returned another result than the call that was checked, about {distance:.1e} away, relative to its "
        f"norm ({tolerance:.0e} is tolerated); so its times are not those of a right result"
    )
    return {"status": "wrong", "message": message}
