"""One panel of the ranking: its title and answer, the methods with a result, and those without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes

from harness.analysis.ranking import Entry, Ranking
from harness.report.figures.fitting import cut, lines, room_pt, shortened, width_pt
from harness.report.figures.ranking_columns import (
    ERROR,
    GAP,
    MARGIN,
    MIB,
    OVER_BEST,
    PEAK,
    TIME,
    Columns,
    Texts,
    name_of,
    texts,
)
from harness.report.figures.sheet import Sheet, limits, ticks
from harness.report.figures.style import RED, drawable
from harness.text import duration, percent, short, short_duration, significant

LEADING = 1.3  # height of a line of text over its size
MOST_OF_FAILED = 0.5  # of a line, that the names of the failed methods take
PADDING = 2.0  # points between two methods
BEST, FAINT, DARK = "#0173b2", "#666666", "#262626"
BEST_BAND, BASELINE_BAND = "#e3eff7", "#efefef"
DASHES = (0, (4, 2))


@dataclass(frozen=True)
class Panel:
    """A ranking and the columns of its page; all lengths are in points."""

    ranking: Ranking
    columns: Columns

    @cached_property
    def height(self) -> float:
        """Height of the panel, with the space below it."""
        axis = self._line if self._shown else 0.0
        below = 3 * PADDING + self._line * len(self._failed) if self._failed else 0.0
        return self._head + sum(self._height(entry) for entry in self._shown) + axis + below + self._line

    def draw(self, sheet: Sheet, top: float) -> None:
        """The panel on a sheet, from this height on."""
        self._draw_title(sheet, top)
        top += self._head
        if self._shown:
            self._draw_methods(sheet, top)
            top += sum(self._height(entry) for entry in self._shown) + self._line
        if self._failed:
            self._draw_failures(sheet, top)

    @property
    def _line(self) -> float:
        return LEADING * self.columns.text_pt

    @property
    def _shown(self) -> list[Entry]:
        return [entry for entry in self.ranking.entries if not entry.failed]

    @property
    def _failed(self) -> list[Entry]:
        return [entry for entry in self.ranking.entries if entry.failed]

    @property
    def _head(self) -> float:
        headings = 2.2 * self._line if self._shown else PADDING
        return self._line * (len(self._title) + len(self._answer) + 0.5) + headings

    @cached_property
    def _title(self) -> list[str]:
        found = self.ranking
        size = "P unknown" if math.isnan(found.params) else f"P = {found.params:,.0f}"
        text = drawable(", ".join([found.family, size, found.quantity, *found.settings]))
        return lines(text, self.columns.right - MARGIN, self.columns.text_pt + 1, 3, bold=True)

    @cached_property
    def _answer(self) -> list[str]:
        return lines(drawable(answer(self.ranking)), self.columns.right - MARGIN, self.columns.text_pt, 3)

    def _texts(self, entry: Entry) -> Texts:
        return texts(entry, self.ranking.baseline, self.columns)

    def _height(self, entry: Entry) -> float:
        return self._line * len(self._texts(entry).name) + PADDING

    def _draw_title(self, sheet: Sheet, top: float) -> None:
        y = top + self._line
        for line in self._title:
            sheet.text(MARGIN, y, line, self.columns.text_pt + 1, color=DARK, weight="bold")
            y += self._line
        for line in self._answer:
            sheet.text(MARGIN, y, line, self.columns.text_pt, color=DARK)
            y += self._line
        if not self._shown:
            return
        at = self.columns
        for x, heading in ((at.time, TIME), (at.over_best, OVER_BEST), (at.peak, PEAK), (at.error, ERROR)):
            if x is None:
                continue
            for place, line in enumerate(heading):
                sheet.text(x, y + self._line * (place + 0.2), line, at.small_pt, color=FAINT, ha="right")

    def _draw_methods(self, sheet: Sheet, top: float) -> None:
        """The lines of the methods with a result, and the axes that go through all of them."""
        middles: list[float] = []
        y = top
        for entry in self._shown:
            middles.append(y + self._height(entry) / 2)
            self._draw_method(sheet, entry, y)
            y += self._height(entry)
        at = self.columns
        ends = [value for entry in self._shown for value in (entry.low_s, entry.median_s, entry.high_s)]
        times = self._axes(sheet, at.times, (top, y), limits(ends), duration)
        baseline = self.ranking.baseline
        if baseline is not None and baseline.median_s > 0:
            times.axvline(baseline.median_s, color=FAINT, linestyle=DASHES, linewidth=0.8 * sheet.medium.scale)
        for entry, middle in zip(self._shown, middles, strict=True):
            look = {"color": self._colour(entry), "linewidth": 1.2 * sheet.medium.scale}
            times.hlines(middle, entry.low_s, entry.high_s, **look)
            self._mark(sheet, times, entry.median_s, middle, entry)
        if at.peaks is None:
            return
        peaks = [entry.peak_bytes / MIB for entry in self._shown]
        memory = self._axes(sheet, at.peaks, (top, y), limits(peaks), significant)
        for entry, peak, middle in zip(self._shown, peaks, middles, strict=True):
            self._mark(sheet, memory, peak, middle, entry)

    def _draw_method(self, sheet: Sheet, entry: Entry, top: float) -> None:
        """A method's band, its name, struck where it is wrong, and its numbers."""
        at, shown = self.columns, self._texts(entry)
        bottom = top + self._height(entry)
        if entry is self.ranking.best:
            sheet.band((0, at.right + MARGIN), (top, bottom), BEST_BAND)
        elif entry is self.ranking.baseline:
            sheet.band((0, at.right + MARGIN), (top, bottom), BASELINE_BAND)
        colour = RED if entry.wrong else DARK
        weight = "bold" if entry is self.ranking.best else "normal"
        for place, line in enumerate(shown.name):
            y = top + PADDING / 2 + self._line * (place + 0.5)
            sheet.text(MARGIN, y, line, at.text_pt, color=colour, weight=weight)
            if entry.wrong:
                sheet.line((MARGIN, MARGIN + width_pt(line, at.text_pt)), y, color=RED, linewidth=0.6)
        middle = (top + bottom) / 2
        numbers = (
            (at.time, shown.time),
            (at.over_best, shown.over_best),
            (at.peak, shown.peak),
            (at.error, shown.error),
        )
        for x, text in numbers:
            if x is not None:
                sheet.text(x, middle, text, at.text_pt, color=colour, weight=weight, ha="right")

    def _axes(
        self,
        sheet: Sheet,
        x: tuple[float, float],
        y: tuple[float, float],
        ends: tuple[float, float],
        written: Callable[[float], str],
    ) -> Axes:
        """Logarithmic axes with as many numbers as have room."""
        ax = sheet.axes(x, y)
        ax.set(xscale="log", xlim=ends)
        small = self.columns.small_pt
        named = ticks(ends, x[1] - x[0], written, small)
        ax.set_xticks(named, [written(value) for value in named], fontsize=small * sheet.medium.scale, color=FAINT)
        ax.set_xticks([], minor=True)
        ax.tick_params(length=0, pad=2 * sheet.medium.scale)
        ax.grid(axis="x", linewidth=0.5 * sheet.medium.scale, color="0.85")
        ax.set_axisbelow(True)
        return ax

    def _mark(self, sheet: Sheet, ax: Axes, value: float, y: float, entry: Entry) -> None:
        """A dot, a cross for what is wrong, hollow for the baseline; what is not above 0 is at the left end."""
        if math.isnan(value):
            return
        colour = self._colour(entry)
        hollow = entry is self.ranking.baseline and entry is not self.ranking.best
        ax.plot(
            [value if value > 0 else ax.get_xlim()[0]],
            [y],
            marker="x" if entry.wrong else "o",
            color=colour,
            markerfacecolor="white" if hollow else colour,
            clip_on=False,
            **sheet.medium.scaled({"markersize": 0.6 * self.columns.text_pt, "markeredgewidth": 1.1}),
        )

    def _colour(self, entry: Entry) -> str:
        if entry.wrong:
            return RED
        return BEST if entry is self.ranking.best else DARK

    def _draw_failures(self, sheet: Sheet, top: float) -> None:
        """A thin rule, and below it the methods without a result, with the reasons."""
        at = self.columns
        y = top + PADDING
        sheet.line((MARGIN, at.right), y, color=FAINT, linewidth=0.6)
        y += 2 * PADDING
        names = [name_of(entry, self.ranking.baseline) for entry in self._failed]
        room = min(max(room_pt(name, at.text_pt) for name in names), MOST_OF_FAILED * at.right)
        start = MARGIN + max(room, at.name) + GAP
        for entry, name in zip(self._failed, names, strict=True):
            text = cut(drawable(entry.reason), at.right - start, at.text_pt)
            sheet.text(
                MARGIN, y + self._line / 2, shortened(name, start - GAP - MARGIN, at.text_pt), at.text_pt, color=FAINT
            )
            sheet.text(start, y + self._line / 2, text, at.text_pt, color=FAINT)
            y += self._line


def answer(ranking: Ranking) -> str:
    """Which right method is the best, and how the baseline, or else the next one, compares."""
    best, baseline = ranking.best, ranking.baseline
    if best is None:
        return "No right method was timed." if any(entry.right for entry in ranking.entries) else "No method is right."
    leading = f"Least time: {best.method}, {short_duration(best.median_s)}"
    if baseline is None or baseline is best:
        following = [entry for entry in ranking.entries if entry.right and entry is not best and entry.over_best > 0]
        return f"{leading}; {_compared(following[0])}." if following else f"{leading}."
    return f"{leading}; {_compared(baseline)}."


def _compared(entry: Entry) -> str:
    if entry.wrong:
        return f"{entry.method} is wrong" + ("" if math.isnan(entry.error) else f" by {percent(entry.error)}")
    if entry.failed:
        return f"{entry.method}: {entry.reason}"
    if math.isnan(entry.over_best):
        return f"{entry.method} was {'not timed' if entry.lead is None else 'timed on another node'}"
    longer = f"{short(entry.over_best)} times as long"
    if entry.undecided and entry.lead is not None and entry.lead.processes == 1:
        return f"{entry.method} took {longer} in a single process"
    return f"{entry.method} may be as fast" if entry.undecided else f"{entry.method} takes {longer}"
