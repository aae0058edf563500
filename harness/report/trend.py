"""Cells over many nights: every step of a time, of an exact counter and of the status, and the commits of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas
from pandas import DataFrame, Series

from harness.analysis.history import History, changes, histories, successive
from harness.analysis.steps import EFFECT, FALSE_ALARMS, LEAST, nights_needed, places, ratio
from harness.analysis.table import escaped
from harness.record import COUNTERS
from harness.report.tables import duration

HEADINGS = ("step", "cell", "ratio", "last night before", "first night after", "commits", "put down to")


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

    @property
    def texts(self) -> dict[str, str]:
        """The step in words, under HEADINGS."""
        factor = "" if math.isnan(self.ratio) else f"{self.ratio:.4g}"
        width = f" ({self.low:.3g} to {self.high:.3g})" if self.low < self.high else ""
        nights = (f"{night['date']:%Y-%m-%d %H:%M}" for night in (self.before, self.after))
        told = (f"{self.measure}: {self.said}", self.cell, factor + width, *nights, self._commits(), self._cause())
        return dict(zip(HEADINGS, told, strict=True))

    def _cause(self) -> str:
        together = "; ".join(changes(self.before, self.after))
        return together or ("the commits" if ".." in self._commits() else "nothing that is recorded")

    def _commits(self) -> str:
        """A range for git; a record's text is only taken for a commit where it is nothing else."""
        ends = [night["commit"] for night in (self.before, self.after)]
        if not all(isinstance(end, str) and re.fullmatch("[0-9a-f]{7,64}", end) for end in ends):
            return "unknown"
        changed = any(pandas.notna(night["dirty"]) and night["dirty"] for night in (self.before, self.after))
        dirty = ", with uncommitted changes" if changed else ""
        shown = f"{ends[0][:12]}, the same" if ends[0] == ends[1] else f"{ends[0][:12]}..{ends[1][:12]}"
        return shown + dirty


@dataclass(frozen=True)
class Trend:
    """The histories, those that step first, and all their steps, largest first."""

    histories: list[History]
    steps: list[Step]
    series: int  # of times, in which steps were looked for

    @property
    def headline(self) -> str:
        """`3 steps in 42 cells over 60 nights`."""
        nights = len(set().union(*(history.nights["night"] for history in self.histories)))
        longest = max((len(times) for history in self.histories for times in _times(history)), default=0)
        few = longest < nights_needed(FALSE_ALARMS / max(self.series, 1))
        told = f"{_count(self.steps, 'step')} in {_count(self.histories, 'cell')} over {nights} nights"
        return f"{told}, too few to tell steps of time" if few else told

    @property
    def notes(self) -> str:
        """What a step is, and what is not told."""
        level = FALSE_ALARMS / max(self.series, 1)
        return (
            f"Time: the median over a night's processes. A step of it is told from {EFFECT:.0%} on, and where an exact "
            f"rank test tells the nights before from those after ({LEAST} at least), which with {self.series} series "
            f"takes {nights_needed(level)} nights or more. If one night's noise tells nothing of the next's, the "
            f"probability that a page has any that is none is at most {FALSE_ALARMS:.0%}; where noise is a third of "
            "a step, one in eight is a night off. Times of different machines are never compared. Counters and tensor "
            "peaks are exact: every change of one is a step. A cell that was ok and is not is broken, the other way "
            "fixed. A step at which torch, the machine or a package changed is put down to that, not to the commits."
        )


def trend(frame: DataFrame) -> Trend | None:
    """The trend of a frame of `harness.record.load`; None where no cell has enough nights."""
    cells = histories(frame)
    series = sum(len(times) >= 2 * LEAST for history in cells for times in _times(history))
    steps = [step for history in cells for step in _steps(history, FALSE_ALARMS / max(series, 1))]
    steps.sort(key=lambda step: (-step.size, step.measure, step.after["date"]))
    rank = {step.cell: -place for place, step in enumerate(reversed(steps))}
    cells.sort(key=lambda history: rank.get(history.cell, 1))
    return Trend(cells, steps, series) if cells else None


def write(frame: DataFrame, out: Path) -> list[Path]:
    """Write trend.md, trend.html and the figure trend into `out`; the files written, none without enough nights."""
    from harness.report.figures import curves
    from harness.report.figures.trend import figure
    from harness.report.web.trend import html

    seen = trend(frame)
    if seen is None:
        return []
    for name, text in (("trend.md", markdown(seen)), ("trend.html", html(seen))):
        (out / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return [out / "trend.md", out / "trend.html", *curves.save(figure(seen), out / "trend")]


def markdown(seen: Trend) -> str:
    """The headline, the steps as a table, and what they are."""
    table = DataFrame([step.texts for step in seen.steps], columns=list(HEADINGS)).map(escaped)
    steps = table.to_markdown(index=False, disable_numparse=True) + "\n\n" if seen.steps else ""
    return f"# {seen.headline}\n\n{steps}{seen.notes}\n"


def _times(history: History) -> list[DataFrame]:
    return [times for _, times in history.of("time_s").groupby("machine", dropna=False)]


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
    for times in _times(history):
        seconds = times["time_s"].to_numpy()
        found = places(seconds, level)
        for start, place, end in zip([0, *found], found, [*found[1:], len(seconds)], strict=False):
            before, after = seconds[start:place], seconds[place:end]
            said = f"{duration(Series(before).median())} to {duration(Series(after).median())}"
            yield Step(history.cell, "time", times.iloc[place - 1], times.iloc[place], said, *ratio(before, after))


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"
