"""Which method is the fastest that is right, and by how much: at every size of every problem."""

from __future__ import annotations

from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.ratios import Ratio, ratio
from harness.analysis.table import Analysis, setting
from harness.record import plain

MEASURED_BUT_NOT_RIGHT = ("wrong", "nonfinite")


@dataclass(frozen=True)
class Contest:
    """The two fastest methods that are right at one place: a problem, a size, a quantity and settings."""

    problem: str  # the family of problems
    params: float  # P; NaN where it is unknown
    settings: tuple[str, ...]  # quantity and settings, where the records differ in them
    first: str
    second: str
    first_s: float  # medians over processes
    second_s: float
    lead: Ratio  # how many times as fast the first is as the second
    contended: bool  # whether one of the two was measured under contention
    unsafe: bool  # whether the first is known to be wrong elsewhere under the same operators
    faster_but_wrong: tuple[str, ...]

    @property
    def decided(self) -> bool:
        """Whether the first is faster beyond doubt (`Ratio.order`)."""
        return self.lead.order > 0


def contests(analysis: Analysis) -> list[Contest]:
    """A contest for each problem, size and setting at which two methods or more are right and timed."""
    quantity = ["quantity"] if analysis.rows["quantity"].nunique() > 1 else []
    telling = [*quantity, *analysis.settings]
    found = []
    for _, group in analysis.rows.groupby(["family", "params", *telling], dropna=False):
        right = group.groupby("label").filter(lambda own: own["status"].eq("ok").all() and own["median_s"].gt(0).all())
        if right["label"].nunique() > 1:
            settings = tuple(setting(name, group[name].iloc[0]) for name in telling)
            found.append(_contest(group, right, settings))
    return found


def _contest(group: DataFrame, right: DataFrame, settings: tuple[str, ...]) -> Contest:
    """The two fastest of the right rows of a place, told apart by the order of their ratio, process by process.

    Where that order is against the medians' (of a drift, or of processes that only one of the two has), it counts.
    """
    times = right.groupby("label")["median_s"].median().sort_values()
    first, second = times.index[:2]
    lead = _ratio(right, first, second)
    if lead.order < 0:
        first, second = second, first
        lead = _ratio(right, first, second)
    fastest = group[group["label"].isin((first, second))]
    wrong = group[group["status"].isin(MEASURED_BUT_NOT_RIGHT) & (group["median_s"] < times[first])]
    return Contest(
        problem=plain(group["family"].iloc[0]),
        params=group["params"].iloc[0],
        settings=settings,
        first=plain(first),
        second=plain(second),
        first_s=times[first],
        second_s=times[second],
        lead=lead,
        contended=bool(fastest["contended"].any()),
        unsafe=bool(group.loc[group["label"] == first, "warning"].notna().any()),
        faster_but_wrong=tuple(sorted({plain(label) for label in wrong["label"]})),
    )


def _ratio(rows: DataFrame, one: str, other: str) -> Ratio:
    return ratio(rows[rows["label"] == one], rows[rows["label"] == other])
