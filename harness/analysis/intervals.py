"""The interval of a median, whatever the distribution."""

from __future__ import annotations

import math
from functools import cache

import numpy
from pandas import Series


def interval(values: Series) -> tuple[float, float]:
    """A 95 % interval of the median over processes, whatever the distribution; below six the least and the largest.

    The exact interval between order statistics (Conover 1999), from scipy.
    """
    known = values.to_numpy(float)
    known = known[~numpy.isnan(known)]
    if len(known) >= 6:
        low, high = _places(len(known))
        ordered = numpy.sort(known)
        return float(ordered[low]), float(ordered[high])
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


@cache
def _places(count: int) -> tuple[int, int]:
    """The places of the interval's ends among so many values in order; they depend on nothing else."""
    from scipy import stats

    found = stats.quantile_test(numpy.arange(count), p=0.5).confidence_interval(0.95)
    return int(found.low), int(found.high)
