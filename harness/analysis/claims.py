"""Which claims that one method is faster a table makes: of those, few are expected to be wrong by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

RATE = 0.05  # of the claims of one table, the share that is expected to be wrong by chance is at most this


def claimed(p_values: Sequence[float]) -> list[bool]:
    """Which of all the claims that a table could make it makes, from the p-value of each; NaN is never claimed.

    The false discovery rate is at most RATE (Benjamini & Hochberg 1995, J. R. Statist. Soc. B 57).
    """
    known = [p for p in p_values if not math.isnan(p)]
    if not known:
        return [False] * len(p_values)
    from scipy import stats

    made = iter(stats.false_discovery_control(known) <= RATE)
    return [not math.isnan(p) and bool(next(made)) for p in p_values]
