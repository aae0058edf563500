"""Steps of a benchmark cell over many nightly runs: of its time, of an exact counter, of its status."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pandas import DataFrame, Series

from harness.analysis.history import History, histories, successive
from harness.analysis.steps import FALSE_ALARMS, LEAST, places, ratio
from harness.analysis.table import Analysis
from harness.record import COUNTERS
from harness.text import duration


@dataclass(frozen=True)
class Step:
    """A change of one measure of one cell between two nights (rows of `History.nights`)."""

    cell: str
    measure: str  # time, one of COUNTERS, broken or fixed
    before: Series  # the last night before the change
    after: Series  # the first night after it
    said: str  # from what to what
    ratio: float  # NaN of a status, infinite from 0
    low: float  # 95 % interval of a time's ratio; that of what is exact has no width
    high: float

    @property
    def size(self) -> float:
        """By which steps are ordered: the ratio's distance from 1 on a logarithmic scale; a status before all."""
        return abs(math.log(self.ratio)) if 0 < self.ratio < math.inf else math.inf


@dataclass(frozen=True)
class Trend:
    """The histories, those that step first, and all their steps, largest first."""

    histories: list[History]
    steps: list[Step]
    series: int  # of times, in which steps were looked for


def trend(analysis: Analysis) -> Trend | None:
    """The trend; None where no cell has enough nights."""
    cells = histories(analysis)
    series = sum(len(known) >= 2 * LEAST for history in cells for known in times(history))
    steps = [step for history in cells for step in _steps(history, FALSE_ALARMS / max(series, 1))]
    steps.sort(key=lambda step: (-step.size, step.measure, step.after["date"]))
    rank = {step.cell: -place for place, step in enumerate(reversed(steps))}
    cells.sort(key=lambda history: rank.get(history.cell, 1))
    return Trend(cells, steps, series) if cells else None


def times(history: History) -> list[DataFrame]:
    """The nightly runs in which a cell's time is known, apart for each machine."""
    return [known for _, known in history.of("time_s").groupby("machine", dropna=False)]


def _steps(history: History, level: float) -> Iterator[Step]:
    for before, after in successive(history.nights):
        if (before["status"] == "ok") != (after["status"] == "ok"):
            word = "broken" if before["status"] == "ok" else "fixed"
            said = f"{before['status']} to {after['status']}"
            yield Step(history.cell, word, before, after, said, math.nan, math.nan, math.nan)
    for name in COUNTERS:
        for before, after in successive(history.of(name)):
            if before[name] != after[name]:
                said = f"{before[name]:.0f} to {after[name]:.0f}"
                factor = after[name] / before[name] if before[name] else math.inf
                yield Step(history.cell, name, before, after, said, factor, factor, factor)
    for nights in times(history):
        seconds = nights["time_s"].to_numpy()
        found = places(seconds, level)
        for start, place, end in zip([0, *found], found, [*found[1:], len(seconds)], strict=False):
            before, after = seconds[start:place], seconds[place:end]
            said = f"{duration(Series(before).median())} to {duration(Series(after).median())}"
            yield Step(history.cell, "time", nights.iloc[place - 1], nights.iloc[place], said, *ratio(before, after))
