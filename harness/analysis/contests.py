"""The two fastest methods that are right at one place, and whether one of them is faster beyond doubt."""

from __future__ import annotations

from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.ratios import OF_A_RATIO, Ratio, ratio

MEASURED_BUT_NOT_RIGHT = ("wrong", "nonfinite")


@dataclass(frozen=True)
class Contest:
    """The two fastest of the methods that are right at one place, by their labels."""

    first: str
    second: str
    lead: Ratio  # how many times as fast the first is as the second


def right(rows: DataFrame) -> DataFrame:
    """The rows of those methods at a place that are timed and right in every process."""
    fails = rows["status"].ne("ok") | ~rows["median_s"].gt(0)
    return rows[~fails.groupby(rows["label"]).transform("any")]


def contest(rows: DataFrame) -> Contest:
    """The two fastest of two methods or more that are right (`right`), ordered by their ratio, process by process.

    The order of the ratio counts where it contradicts that of the medians. It does so after a drift, or where only one
    of the two methods has some of the processes.
    """
    times = rows.groupby("label")["median_s"].median().sort_values()
    first, second = times.index[:2]
    lead = between(rows, first, second)
    if lead.order < 0:
        return Contest(second, first, between(rows, second, first))
    return Contest(first, second, lead)


def between(rows: DataFrame, one: str, other: str) -> Ratio:
    """How many times as fast the method with the label `one` is as that with the label `other`."""
    rows = rows[["label", *OF_A_RATIO]]  # of a hundred columns
    return ratio(rows[rows["label"] == one], rows[rows["label"] == other])
