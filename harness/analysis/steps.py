"""Where a series of times steps: the best places for each number of steps, and a rank test of every one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator

import numpy
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

LEAST = 3  # nights on each side of a step
EFFECT = 0.05  # least relative change
FALSE_ALARMS = 0.01  # the probability that a page has any step of time that is none is at most this


def places(seconds: numpy.ndarray, level: float) -> list[int]:
    """Each k such that a series steps between seconds[k - 1] and seconds[k]: the most for which every one stands out.

    If the nights' times are exchangeable between its true steps, the probability of any other is at most `level`: a
    step between the nights [a, k) and [k, b) has an exact two-sided Mann-Whitney p-value, times the number of such
    (a, k, b) (Bonferroni; every length b - a has the same share), so it does not matter how the places were found.
    """
    logs = numpy.log(seconds)
    for found in reversed(list(_partitions(logs))):
        edges = [0, *found, len(logs)]
        if all(_stands_out(logs, *three, level) for three in zip(edges, edges[1:], edges[2:], strict=False)):
            return found
    return []


def nights_needed(level: float) -> int:
    """The least number of nights in which a step may stand out at this level: all times before it below all after."""
    nights = 2 * LEAST
    while 2 / math.comb(nights, nights // 2) * _looks(nights, nights) > level:
        nights += 1
    return nights


def ratio(before: numpy.ndarray, after: numpy.ndarray) -> tuple[float, float, float]:
    """How many times as long: the median of all pairs' ratios, and its 95 % interval by the same rank test.

    Hodges & Lehmann 1963 (Ann. Math. Statist. 34) and Moses: the shifts of log time which the test does not reject,
    one pair wider, since there it meets ties.
    """
    earlier, later = numpy.log(before), numpy.log(after)
    shifts = numpy.sort(numpy.subtract.outer(later, earlier), axis=None)

    def accepted(shift: float) -> float:
        return float(stats.mannwhitneyu(later - shift, earlier, method="exact").pvalue)

    half = len(shifts) // 2
    low = shifts[max(bisect_right(shifts[:half], 0.05, key=accepted) - 1, 0)]
    high = shifts[::-1][max(bisect_right(shifts[::-1][:half], 0.05, key=accepted) - 1, 0)]
    return math.exp(numpy.median(shifts)), math.exp(low), math.exp(high)


def _partitions(logs: numpy.ndarray) -> Iterator[list[int]]:
    """For 0, 1, 2, ... steps the places with the least sum of absolute deviations from the medians between them.

    Absolute, so that one odd night moves no step. Segment neighbourhood: Auger & Lawrence 1989 (Bull. Math. Biol. 51).
    """
    count = len(logs)
    cost = numpy.full((count + 1, count + 1), numpy.inf)  # [a, b]: of the nights a to b - 1 without a step
    for span in range(LEAST, count + 1):
        windows = sliding_window_view(logs, span)
        deviations = numpy.abs(windows - numpy.median(windows, axis=1, keepdims=True))
        cost[numpy.arange(count + 1 - span), numpy.arange(span, count + 1)] = deviations.sum(axis=1)
    least = cost[0]  # [b]: of the nights before b with so many steps
    origins: list[numpy.ndarray] = []
    yield []
    for _ in range(count // LEAST - 1):
        through = least[:, None] + cost
        origins.append(through.argmin(axis=0))
        least = through.min(axis=0)
        found = [count]
        for origin in reversed(origins):
            found.append(int(origin[found[-1]]))
        yield found[:0:-1]


def _stands_out(logs: numpy.ndarray, start: int, place: int, end: int, level: float) -> bool:
    before, after = logs[start:place], logs[place:end]
    if abs(numpy.median(after) - numpy.median(before)) < math.log1p(EFFECT):
        return False
    p = stats.mannwhitneyu(before, after, method="exact").pvalue
    return bool(p * _looks(len(logs), end - start) <= level)


def _looks(nights: int, span: int) -> int:
    """What a p-value is multiplied with: lengths, times places of one of this length, times places of a step in it."""
    return (nights - 2 * LEAST + 1) * (nights - span + 1) * (span - 2 * LEAST + 1)
