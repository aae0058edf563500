"""How many times as fast one way is as another, with an interval, from processes of the same seed and round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from pandas import DataFrame, Series
from scipy import stats

from harness.report.rows import interval

ENOUGH = 6  # processes from which on the order of their ratios alone gives an interval


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of paired processes and its 95 % interval; NaN where nothing tells one."""

    value: float
    low: float
    high: float
    processes: int  # paired; 1: the interval is of the samples within one process, which differ less than processes do
    by: str  # how the interval was found


def ratio(one: DataFrame, other: DataFrame) -> Ratio:
    """How many times as fast `one` is as `other`, from prepared rows of one cell each whose times are above 0.

    Processes of one seed and round ran beside each other, so that what slows the machine slows both. The interval is
    that between order statistics (`rows.interval`), below ENOUGH processes Student's t on the ratios' logarithms, and
    for one process the ratio of the ends of the two samples' own intervals.
    """
    pairs = (_by_process(other) / _by_process(one)).dropna()
    if len(pairs) >= ENOUGH:
        return Ratio(float(pairs.median()), *interval(pairs), len(pairs), "order statistics of the processes' ratios")
    if len(pairs) > 1:
        logs = numpy.log(pairs.to_numpy(float))
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        low, high = math.exp(logs.mean() - half), math.exp(min(logs.mean() + half, 700.0))
        return Ratio(float(pairs.median()), low, high, len(pairs), "Student's t on the processes' log ratios")
    (fast, slow), (least, most) = _of_samples(one), _of_samples(other)
    value = float(other["median_s"].median() / one["median_s"].median())
    return Ratio(value, least / slow, most / fast, 1, "samples within one process")


def _by_process(rows: DataFrame) -> Series:
    return rows.groupby(["seed", "round"], dropna=False)["median_s"].median()


def _of_samples(rows: DataFrame) -> tuple[float, float]:
    samples = Series([time for times in rows["times_s"] if isinstance(times, list) for time in times if time > 0])
    return interval(samples) if len(samples) > 1 else (math.nan, math.nan)
