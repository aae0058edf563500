"""Two samples of times compared by ranks, and the p-values of many such comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy import stats

LEVEL = 0.99  # of the intervals


@dataclass(frozen=True)
class Times:
    """Two samples of process-level times, compared."""

    ratio: float  # candidate over baseline: the median of all ratios between processes
    low: float  # of its interval at LEVEL; 0 and infinite where there are too few processes
    high: float
    p: float  # two-sided

    def __str__(self) -> str:
        return f"{self.ratio:.3f} {interval(self.low, self.high)}"


def interval(low: float, high: float) -> str:
    """An interval of ratios as text; words where there are too few processes for one."""
    return f"[{low:.3f}, {high:.3f}]" if math.isfinite(high) else "too few processes"


def times(base: Sequence[float], candidate: Sequence[float]) -> Times:
    """Compare process-level times: the Mann-Whitney test, and the interval of ratios that it does not reject."""
    ratios = numpy.sort(numpy.divide.outer(numpy.asarray(candidate), numpy.asarray(base)).ravel())

    def rejected(count: int) -> bool:
        """Whether a ratio with `count` of the pairs' ratios below it is."""
        middle = ratios[0] / 2 if count == 0 else math.sqrt(ratios[count - 1] * ratios[count])
        return _p(numpy.asarray(base) * middle, candidate) < 1 - LEVEL

    low, high = 0, (len(ratios) + 1) // 2  # p grows with the count up to one half
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if rejected(middle) else (low, middle)
    ends = (ratios[low - 1], ratios[-low]) if low else (0.0, math.inf)
    return Times(float(numpy.median(ratios)), float(ends[0]), float(ends[1]), _p(base, candidate))


def processes_needed(tests: int, level: float) -> int:
    """The least number of processes, of baseline and candidate each, with which one of so many tests can reject."""
    return next(count for count in itertools.count(2) if 2 * tests / math.comb(2 * count, count) < level)


def _p(base: Sequence[float] | numpy.ndarray, candidate: Sequence[float]) -> float:
    exact = max(len(base), len(candidate)) <= 50
    return float(stats.mannwhitneyu(base, candidate, method="exact" if exact else "asymptotic").pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of all that are known (Scandinavian Journal of Statistics 6, 1979); NaN stays."""
    known = [index for index, p in enumerate(values) if not math.isnan(p)]
    adjusted, least = [math.nan] * len(values), 0.0
    for rank, index in enumerate(sorted(known, key=lambda index: values[index])):
        least = max(least, min((len(known) - rank) * values[index], 1.0))
        adjusted[index] = least
    return adjusted
