"""How many times as fast one method is as another, with an interval, from processes of one seed, round and node."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
from numpy import ndarray
from pandas import DataFrame, Series

from harness.analysis.intervals import interval

ENOUGH = 6  # processes from which on the order of their ratios alone gives an interval
EQUAL = 1.005  # ratio below which two times are the same to three digits
ALONE = 1.1  # ratio below which one process a cell decides nothing: two processes of one cell often differ so much
UNKNOWN = -1  # a seed or round that an old record lacks
OF_A_RATIO = ["seed", "round", "node", "median_s", "times_s"]  # columns that a ratio is made of
# How an interval was found, the surest first.
ORDER_STATISTICS = "order statistics of the processes' ratios"
STUDENT = "Student's t on the processes' log ratios"
SAMPLES = "samples within one process"


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of paired processes and its 95 % interval; NaN where nothing tells one."""

    value: float  # NaN where the processes ran on different nodes of a cluster: their times do not compare
    low: float
    high: float
    # Paired. 1: the interval is of the samples within one process, which differ less than processes do. 0: no ratio.
    processes: int
    by: str  # how the interval was found: ORDER_STATISTICS, STUDENT or SAMPLES
    p: float  # two-sided, of a ratio of 1; NaN for one process, which does not show how much processes differ

    @property
    def order(self) -> int:
        """1 or -1 where the ratio, taken alone, is above or below 1, else 0.

        The interval leaves out 1, with one process the ratio is beyond ALONE too, and it is EQUAL at least.
        """
        guard = ALONE if self.by == SAMPLES else 1.0
        if max(self.value, 1 / self.value) < EQUAL:
            return 0
        return int(self.low > 1 and self.value > guard) - int(self.high < 1 and self.value < 1 / guard)

    def p_of(self, order: int) -> float:
        """The p-value of the claim that the ratio is above 1 (`order` 1) or below it (-1), for `claims.claimed`.

        1 where the ratio, taken alone, does not show it; NaN for one process. That the direction is chosen after
        looking is accounted for.
        """
        return self.p if self.by == SAMPLES or self.order == order else 1.0


class Times:
    """What a ratio takes of the processes of one cell: their times, which are above 0, summed up once."""

    def __init__(self, medians_s: ndarray, seeds: ndarray, rounds: ndarray, nodes: ndarray, samples: ndarray) -> None:
        """All of shape (processes,); the last two hold each one's node, as text, and its `times_s`."""
        self._medians_s = medians_s
        self._processes = seeds, rounds, nodes
        self._samples = samples
        self.nodes = {*nodes.tolist()}

    @cached_property
    def median_s(self) -> float:
        """The median over the processes."""
        return statistics.median(self._medians_s.tolist())

    @cached_property
    def by_process(self) -> dict[tuple[float, float, str], float]:
        """The median time (seconds) of the processes of each seed, round and node."""
        times: dict[tuple[float, float, str], list[float]] = {}
        for seed, number, node, time in zip(*self._processes, self._medians_s.tolist(), strict=True):
            times.setdefault((seed, number, node), []).append(time)
        return {process: statistics.median(seen) for process, seen in times.items()}

    @cached_property
    def of_samples(self) -> tuple[float, float]:
        """The interval of the samples of all processes; NaN where there are fewer than two."""
        lists = [times for times in self._samples if isinstance(times, list)]
        samples = Series([time for times in lists for time in times if time > 0])
        return interval(samples) if len(samples) > 1 else (math.nan, math.nan)


def times_by(rows: DataFrame, columns: Sequence[str]) -> dict[Any, Times]:
    """The times of each group of prepared rows that agree in these columns, by their values there.

    Rows without a time are left out.
    """
    rows = rows[rows["median_s"] > 0]
    seeds, rounds = (rows[name].fillna(UNKNOWN).to_numpy() for name in ("seed", "round"))
    nodes = rows["node"].astype("object").fillna("").to_numpy()  # of records that are of no cluster: one node
    medians_s, samples = rows["median_s"].to_numpy(float), rows["times_s"].to_numpy(object)
    groups = rows.groupby(list(columns)).indices
    return {key: Times(medians_s[at], seeds[at], rounds[at], nodes[at], samples[at]) for key, at in groups.items()}


def ratio(one: Times, other: Times) -> Ratio:
    """How many times as fast `one` is as `other`.

    Processes of one seed, round and node ran beside each other, so that what slows the machine slows both. The interval
    is that between order statistics (`intervals.interval`), below ENOUGH processes Student's t on the ratios'
    logarithms. For one process it is the ratio of the ends of the two samples' own intervals.
    """
    faster, slower = one.by_process, other.by_process
    pairs = numpy.array([slower[process] / faster[process] for process in faster if process in slower], dtype=float)
    if len(pairs) < 2 and len(one.nodes | other.nodes) > 1:
        return Ratio(math.nan, math.nan, math.nan, 0, SAMPLES, math.nan)
    if len(pairs) < 2:
        (fast, slow), (least, most) = one.of_samples, other.of_samples
        return Ratio(other.median_s / one.median_s, least / slow, most / fast, 1, SAMPLES, math.nan)
    logs = numpy.log(pairs)
    ends, by = (
        (interval(Series(pairs)), ORDER_STATISTICS) if len(pairs) >= ENOUGH else (_students_interval(logs), STUDENT)
    )
    return Ratio(float(numpy.median(pairs)), *ends, len(pairs), by, p_value(logs))


def p_value(logs: ndarray) -> float:
    """The two-sided p-value of a ratio of 1, from the logarithms of two or more processes' ratios (n,).

    That of Student's t; from ENOUGH processes on twice the smaller of that and the sign test's (Bonferroni). The first
    finds more where the noise is even, the second where some processes are far too slow.
    """
    from scipy import special

    deviation = logs.std(ddof=1) / math.sqrt(len(logs))
    student = 2 * special.stdtr(len(logs) - 1, -abs(logs.mean()) / deviation) if deviation > 0 else 0.0
    if len(logs) < ENOUGH:
        return float(student)
    fewer = min((logs > 0).sum(), (logs < 0).sum())
    sign = 2 * special.bdtr(fewer, len(logs), 0.5)
    return float(min(2 * student, 2 * sign, 1.0))


def _students_interval(logs: ndarray) -> tuple[float, float]:
    from scipy import special

    half = float(special.stdtrit(len(logs) - 1, 0.975)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(logs.mean() - half), math.exp(min(logs.mean() + half, 700.0))
