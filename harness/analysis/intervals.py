"""The interval of a median, whatever the distribution."""

from __future__ import annotations

import math

import numpy
from pandas import Series


def interval(values: Series) -> tuple[float, float]:
    """A 95 % interval of the median over processes, whatever the distribution; below six the least and the largest.

    The exact interval between order statistics (Conover 1999), from scipy.
    """
    known = values.to_numpy(float)
    known = known[~numpy.isnan(known)]
    if len(known) >= 6:
        from scipy import stats

        found = stats.quantile_test(known, p=0.5).confidence_interval(0.95)
        return float(found.low), float(found.high)
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)
