"""Counters of a benchmark cell in a baseline and in a candidate: the same in every process of the same code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pandas import DataFrame

from harness.compare.conditions import difference
from harness.record import COUNTERS

DISPATCHED = ("operations", "flops")  # counters that do not depend on a GPU's libraries and their workspaces
OF_TORCH = ("operations", "allocations")  # counters that another version of torch may change by itself


@dataclass(frozen=True)
class Change:
    """A counter that is not the same in all processes of the baseline and the candidate."""

    name: str
    before: float
    after: list[float]  # what the candidate's processes counted, ascending; none if they did not

    def __str__(self) -> str:
        after = " or ".join(f"{count:,.0f}" for count in self.after)
        return f"{self.name} {self.before:,.0f} to {after or 'unknown'}"


@dataclass(frozen=True)
class Counts:
    """The counters of a cell, compared."""

    same: list[str]  # names of those that did not change
    changes: list[Change]
    permitted: list[Change]  # which are no regression, whatever they are

    @property
    def grew(self) -> bool:
        """Whether any process of the candidate counted more."""
        return any(max(change.after, default=0) > change.before for change in self.changes)

    @property
    def lost(self) -> bool:
        """Whether the candidate did not count what the baseline did."""
        return any(not change.after for change in self.changes)

    @property
    def changed(self) -> str:
        """`operations 338 to 337`, with commas; empty where nothing changed."""
        return ", ".join(map(str, self.changes))


def compare_counters(base: DataFrame, candidate: DataFrame, allow: Collection[str]) -> Counts:
    """The counters of a cell but those that another GPU or its libraries may change.

    Changes of those in `allow`, and between versions of torch of those in OF_TORCH, are permitted.
    """
    if difference(base, candidate, ("torch",)) is not None:
        allow = {*allow, *OF_TORCH}
    on_cpu = candidate["device"].iloc[0] == "cpu"
    same_libraries = on_cpu or difference(base, candidate, ("gpu", "driver", "cudnn")) is None
    same, changes, permitted = [], [], []
    for name in COUNTERS:
        before, after = _counted(base, name), _counted(candidate, name)
        if not (same_libraries or name in DISPATCHED):
            continue
        if len(before) != 1 or not (after or _was_asked_to_count(candidate)):
            continue
        if after == before:
            same.append(name)
        else:
            (permitted if name in allow else changes).append(Change(name, before[0], after))
    return Counts(same, changes, permitted)


def _counted(records: DataFrame, counter: str) -> list[float]:
    """What the processes counted, ascending, each number once."""
    return sorted(records[counter].dropna().unique())


def _was_asked_to_count(records: DataFrame) -> bool:
    return bool(records["passes"].fillna("exact").str.contains("exact").any())
