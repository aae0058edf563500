"""The methods of one place in order: the right and the wrong ones by their time, then those without a result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.claims import claimed
from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT, WITH_A_RESULT, Place, places
from harness.analysis.emphasis import BASELINE
from harness.analysis.ratios import Ratio
from harness.analysis.reasons import OF_A_REASON, reason
from harness.analysis.table import APPROXIMATE, Analysis, setting
from harness.record import plain

FEW_SIZES = 3  # below so many sizes, there is no curve to draw against P
MANY_METHODS = 8  # above so many methods, curves cannot be told apart
# Columns that an entry is made of.
OF_AN_ENTRY = ["label", "low_s", "high_s", "tensor_peak_bytes", "relative_error", "contended", *OF_A_REASON]


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
    lead: Ratio | None  # how many times as fast the best is, process by process; None unless both are right
    slower: bool  # whether it is claimed to be slower than the best (`claims.claimed`)
    contended: bool  # whether another process disturbed the measurement

    @property
    def undecided(self) -> bool:
        """Whether it is right and perhaps as fast as the best."""
        return self.lead is not None and not self.slower

    @property
    def right(self) -> bool:
        """Whether the result agrees with the reference, or no pass compared it."""
        return self.status == "ok"

    @property
    def approximate(self) -> bool:
        """Whether the result is an approximation by design."""
        return self.status == APPROXIMATE

    @property
    def wrong(self) -> bool:
        """Whether there is a result and it disagrees with the reference."""
        return self.status in MEASURED_BUT_NOT_RIGHT

    @property
    def failed(self) -> bool:
        """Whether there is no result that was checked."""
        return not (self.right or self.approximate or self.wrong)


@dataclass(frozen=True)
class Ranking:
    """The methods at one place: a family of problems, a P, a quantity and settings."""

    family: str
    params: float  # P; NaN where it is unknown
    quantity: str
    settings: tuple[str, ...]  # those in which the records differ, as text
    entries: tuple[Entry, ...]
    best_method: str | None  # printable: the leader of the right methods that were timed; None where there is none
    baseline_method: str  # printable; a place may lack it

    @property
    def baseline(self) -> Entry | None:
        """The entry of the baseline, which may be missing, wrong or failed."""
        return next((entry for entry in self.entries if entry.method == self.baseline_method), None)

    @property
    def best(self) -> Entry | None:
        """The entry of the leader; None where no right method was timed."""
        return next((entry for entry in self.entries if entry.method == self.best_method), None)


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


def _series(analysis: Analysis, baseline: str | None) -> list[list[Ranking]]:
    """The rankings of each family, quantity and setting, by P; an unknown P comes first.

    Of all methods that are claimed to be slower than the best, at most the share `claims.RATE` is expected not to be.
    """
    found = places(analysis)
    contests = [place.contest for place in found if place.contest is not None]
    claims = iter(claimed([contest.p_slower(label) for contest in contests for label in contest.leads]))
    series: dict[tuple[str, str, tuple[str, ...]], list[Ranking]] = {}
    for place in found:
        leads = place.contest.leads if place.contest is not None else {}
        slower = {label for label in leads if next(claims)}
        ranking = _ranking(analysis, place, slower, baseline or BASELINE)
        series.setdefault((ranking.family, ranking.quantity, ranking.settings), []).append(ranking)
    return [sorted(group, key=_by_size) for group in series.values()]


def _by_size(ranking: Ranking) -> float:
    return -math.inf if math.isnan(ranking.params) else ranking.params


def _ranking(analysis: Analysis, place: Place, slower: Collection[str], baseline: str) -> Ranking:
    """The ranking of one place; `slower` are the labels that are claimed to be slower than its leader."""
    row, contest = place.rows.iloc[0], place.contest
    by_label: dict[str, list[dict[Any, Any]]] = {}
    for cell in analysis.cells_of(place.rows, OF_AN_ENTRY).to_dict("records"):
        by_label.setdefault(str(cell["label"]), []).append(cell)
    timed = {label: _entry(label, by_label[label]) for label in sorted(by_label)}
    best = None if contest is None else contest.leader
    best_s = math.nan if best is None else timed[best].median_s
    leads = {} if contest is None else contest.leads
    entries = [
        replace(
            entry,
            over_best=leads[label].value if label in leads else _over(entry.median_s, best_s),
            lead=leads.get(label),
            slower=label in slower,
        )
        for label, entry in timed.items()
    ]
    return Ranking(
        family=plain(row["family"]),
        params=float(row["params"]),
        quantity=plain(row["quantity"]),
        settings=tuple(setting(name, row[name]) for name in analysis.settings),
        entries=tuple(sorted(entries, key=_rank)),
        best_method=None if best is None else plain(best),
        baseline_method=plain(baseline),
    )


def _entry(label: str, cells: Sequence[Mapping[Any, Any]]) -> Entry:
    """One method's cells at one place (of several seeds, say) as one, which is ok if all of them are."""
    worst = next((cell for cell in cells if cell["status"] != "ok"), cells[0])

    def over(statistic: Callable[[Sequence[float]], float], column: str) -> float:
        known = [float(cell[column]) for cell in cells if not math.isnan(cell[column])]
        return statistic(known) if known else math.nan

    has_result = worst["status"] in WITH_A_RESULT
    return Entry(
        method=plain(label),
        status=str(worst["status"]),
        reason="" if has_result else reason(worst),
        median_s=over(statistics.median, "median_s"),
        low_s=over(min, "low_s"),
        high_s=over(max, "high_s"),
        peak_bytes=over(max, "tensor_peak_bytes"),
        error=over(max, "relative_error"),
        over_best=math.nan,
        lead=None,
        slower=False,
        contended=any(cell["contended"] for cell in cells),
    )


def _over(time_s: float, other_s: float) -> float:
    """The ratio of two times; NaN where the other is unknown or zero."""
    return time_s / other_s if other_s > 0 else math.nan


def _rank(entry: Entry) -> tuple[bool, bool, float, str, str]:
    """By time, then those without a time, then the failed ones by their reasons."""
    timed = not (entry.failed or math.isnan(entry.median_s))
    return entry.failed, not timed, entry.median_s if timed else 0.0, entry.reason, entry.method
