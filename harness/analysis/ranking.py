"""The methods of one place in order: the right and the wrong ones by their time, then those without a result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pandas import DataFrame

from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT, between
from harness.analysis.emphasis import BASELINE
from harness.analysis.ratios import Ratio
from harness.analysis.reasons import reason
from harness.analysis.table import Analysis, setting
from harness.record import plain

FEW_SIZES = 3  # below so many sizes, there is no curve to draw against P
SINGLE = 2.0  # ratio of two single samples that decides: a first call may take about twice as long as the next
MANY_METHODS = 8  # above so many methods, curves cannot be told apart


@dataclass(frozen=True)
class Entry:
    """One method of a ranking. What was not measured is NaN."""

    method: str  # its label, printable
    status: str  # of the record: ok, wrong, oom, ...
    reason: str  # in words; empty where there is a result, right or wrong
    median_s: float  # the median time of a call over processes, in seconds
    low_s: float  # its interval
    high_s: float
    peak_bytes: float  # peak of tensor memory above the start of the call
    error: float  # relative to the reference
    over_best: float  # its time over that of the fastest right method
    over_baseline: float  # its time over that of the baseline
    undecided: bool  # whether it is right and, process by process, perhaps as fast as the best (`Ratio.order`)
    contended: bool  # whether another process disturbed the measurement

    @property
    def right(self) -> bool:
        """Whether the result agrees with the reference, or no pass compared it."""
        return self.status == "ok"

    @property
    def wrong(self) -> bool:
        """Whether there is a result and it disagrees with the reference."""
        return self.status in MEASURED_BUT_NOT_RIGHT

    @property
    def failed(self) -> bool:
        """Whether there is no result that was checked."""
        return not (self.right or self.wrong)


@dataclass(frozen=True)
class Ranking:
    """The methods at one place: a family of problems, a P, a quantity and settings."""

    family: str
    params: float  # P; NaN where it is unknown
    quantity: str
    settings: tuple[str, ...]  # those in which the records differ, as text
    entries: tuple[Entry, ...]
    baseline_method: str  # printable; a place may lack it

    @property
    def baseline(self) -> Entry | None:
        """The entry of the baseline, which may be missing, wrong or failed."""
        return next((entry for entry in self.entries if entry.method == self.baseline_method), None)

    @property
    def best(self) -> Entry | None:
        """The fastest right method that was timed."""
        return next((entry for entry in self.entries if entry.right and not math.isnan(entry.median_s)), None)


def rankings(analysis: Analysis, baseline: str | None = None) -> list[Ranking]:
    """A ranking for each place, ordered by family, quantity, settings and P; `baseline` is a label, or BASELINE."""
    return [ranking for group in _series(analysis, baseline) for ranking in group]


def main_rankings(analysis: Analysis, baseline: str | None = None) -> list[Ranking]:
    """The ranking of the largest P of each family, quantity and setting that has few sizes or many methods.

    A P at which no method is right counts only where there is none other, and an unknown P only where it was timed.
    """
    found = []
    for series in _series(analysis, baseline):
        group = [ranking for ranking in series if ranking.best is not None or not math.isnan(ranking.params)]
        methods = {entry.method for ranking in group for entry in ranking.entries}
        sizes = sum(not math.isnan(ranking.params) for ranking in group)
        if group and (sizes < FEW_SIZES or len(methods) > MANY_METHODS):
            answered = [ranking for ranking in group if ranking.best is not None]
            found.append((answered or group)[-1])
    return found


def _series(analysis: Analysis, baseline: str | None) -> Iterator[list[Ranking]]:
    """The rankings of one family, quantity and setting, by P; an unknown P comes first."""
    keys = ["family", "quantity", *analysis.settings]
    for values, group in analysis.cells.groupby(keys, dropna=False):
        settings = tuple(setting(key, value) for key, value in zip(keys[2:], values[2:], strict=True))
        by_size = group.groupby(group["params"].fillna(-math.inf))
        yield [
            Ranking(
                family=plain(values[0]),
                params=float(rows["params"].iloc[0]),
                quantity=plain(values[1]),
                settings=settings,
                entries=_ordered(rows, analysis.rows_of(rows), baseline or BASELINE),
                baseline_method=plain(baseline or BASELINE),
            )
            for _, rows in by_size
        ]


def _ordered(cells: DataFrame, rows: DataFrame, baseline: str) -> tuple[Entry, ...]:
    """The entries of one place in order, from its cells and their rows."""
    timed = {str(label): _entry(str(label), own) for label, own in cells.groupby("label")}
    right = {label: entry.median_s for label, entry in timed.items() if entry.right and entry.median_s > 0}
    best = min(right, key=lambda label: right[label], default=None)
    best_s = math.nan if best is None else right[best]
    baseline_s = timed[baseline].median_s if baseline in timed else math.nan
    entries = [
        replace(
            entry,
            over_best=_over(entry.median_s, best_s),
            over_baseline=_over(entry.median_s, baseline_s),
            undecided=label in right and label != best and _undecided(between(rows, str(best), label)),
        )
        for label, entry in timed.items()
    ]
    return tuple(sorted(entries, key=_rank))


def _entry(label: str, cells: DataFrame) -> Entry:
    """One method's cells at one place (of several seeds, say) as one, which is ok if all of them are."""
    worst = cells.sort_values("status", key=lambda status: status.eq("ok"), kind="stable").iloc[0]
    has_result = worst["status"] in ("ok", *MEASURED_BUT_NOT_RIGHT)
    return Entry(
        method=plain(label),
        status=str(worst["status"]),
        reason="" if has_result else reason(worst),
        median_s=float(cells["median_s"].median()),
        low_s=float(cells["low_s"].min()),
        high_s=float(cells["high_s"].max()),
        peak_bytes=float(cells["tensor_peak_bytes"].max()),
        error=float(cells["relative_error"].max()),
        over_best=math.nan,
        over_baseline=math.nan,
        undecided=False,
        contended=bool(cells["contended"].any()),
    )


def _undecided(lead: Ratio) -> bool:
    """Whether the method behind may be as fast: by the order of the ratio, or where single samples have no interval."""
    return lead.value < SINGLE if math.isnan(lead.low) else lead.order <= 0


def _over(time_s: float, other_s: float) -> float:
    """The ratio of two times; NaN where the other is unknown or zero."""
    return time_s / other_s if other_s > 0 else math.nan


def _rank(entry: Entry) -> tuple[bool, bool, float, str, str]:
    """By time, then those without a time, then the failed ones by their reasons."""
    timed = not (entry.failed or math.isnan(entry.median_s))
    return entry.failed, not timed, entry.median_s if timed else 0.0, entry.reason, entry.method
