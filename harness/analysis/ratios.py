"""How many times as fast one method is as another, with an interval, from processes of the same seed and round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy
from pandas import DataFrame, Series

from harness.analysis.intervals import interval

ENOUGH = 6  # processes from which on the order of their ratios alone gives an interval
EQUAL = 1.005  # ratio below which two times are the same to three digits
ALONE = 1.1  # ratio below which one process a cell decides nothing: two processes of one cell often differ so much
OF_A_RATIO = ["seed", "round", "median_s", "times_s"]  # columns that a ratio is made of
# How an interval was found, the surest first.
ORDER_STATISTICS = "order statistics of the processes' ratios"
STUDENT = "Student's t on the processes' log ratios"
SAMPLES = "samples within one process"


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of paired processes and its 95 % interval; NaN where nothing tells one."""

    value: float
    low: float
    high: float
    processes: int  # paired; 1: the interval is of the samples within one process, which differ less than processes do
    by: str  # how the interval was found: ORDER_STATISTICS, STUDENT or SAMPLES

    @property
    def order(self) -> int:
        """1 or -1 where the ratio is above or below 1 beyond doubt, else 0: the one rule for `is faster`.

        The interval leaves out 1, with one process the ratio is beyond ALONE too, and it is EQUAL at least.
        """
        guard = ALONE if self.by == SAMPLES else 1.0
        if max(self.value, 1 / self.value) < EQUAL:
            return 0
        return int(self.low > 1 and self.value > guard) - int(self.high < 1 and self.value < 1 / guard)


def ratio(one: DataFrame, other: DataFrame) -> Ratio:
    """How many times as fast `one` is as `other`, from prepared rows of one cell each whose times are above 0.

    Processes of one seed and round ran beside each other, so that what slows the machine slows both. The interval is
    that between order statistics (`intervals.interval`), below ENOUGH processes Student's t on the ratios' logarithms.
    For one process it is the ratio of the ends of the two samples' own intervals.
    """
    of_one, of_other = _by_process(one), _by_process(other)
    pairs = Series([of_other[process] / of_one[process] for process in of_one if process in of_other], dtype="float")
    if len(pairs) >= ENOUGH:
        return Ratio(float(pairs.median()), *interval(pairs), len(pairs), ORDER_STATISTICS)
    if len(pairs) > 1:
        from scipy import stats

        logs = numpy.log(pairs.to_numpy(float))
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        low, high = math.exp(logs.mean() - half), math.exp(min(logs.mean() + half, 700.0))
        return Ratio(float(pairs.median()), low, high, len(pairs), STUDENT)
    (fast, slow), (least, most) = _of_samples(one), _of_samples(other)
    value = float(other["median_s"].median() / one["median_s"].median())
    return Ratio(value, least / slow, most / fast, 1, SAMPLES)


def _by_process(rows: DataFrame) -> dict[tuple[float, float], float]:
    """The median time of each process that has one, by its seed and round, in their order."""
    times: dict[tuple[float, float], list[float]] = {}
    processes = zip(rows["seed"].fillna(-1), rows["round"].fillna(-1), strict=True)
    for process, time in zip(processes, rows["median_s"], strict=True):
        if time > 0:
            times.setdefault(process, []).append(time)
    return {process: median(times[process]) for process in sorted(times)}


def _of_samples(rows: DataFrame) -> tuple[float, float]:
    samples = Series([time for times in rows["times_s"] if isinstance(times, list) for time in times if time > 0])
    return interval(samples) if len(samples) > 1 else (math.nan, math.nan)
