"""The columns of a ranking: what is written in them, and how wide they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.ranking import Entry, Ranking
from harness.report.figures.fitting import lines, room_pt
from harness.report.figures.style import drawable
from harness.report.leaderboard import UNDECIDED
from harness.report.readable import MIB
from harness.text import percent, short, short_duration, significant

MARGIN, GAP = 4.0, 7.0  # points at the ends of a line, and between columns
NARROW = 320.0  # points of a line, below which the text is smaller and memory is a number only
NARROWEST = 220.0  # points of a line, below which memory is left out
LEAST_AXIS = 25.0  # points of the axis of time
NAMES, NAMES_OF_NARROW = 0.28, 0.33  # most that names take of a line
PEAKS = 0.13  # what the axis of memory takes of it
MOST_LINES = 5  # of a name
MOST_DIGITS = 9999.5  # ratio from which only the power of ten is written
CONTENDED = "*"
NONE = "–"
TIME, OVER_BEST, PEAK, ERROR = ("", "time"), ("", "× best"), ("peak", "MiB"), ("", "error")  # headings


@dataclass(frozen=True)
class Columns:
    """Where the columns are, in points from the left: the ends of the axes, and the right ends of the numbers."""

    text_pt: float  # size of the text
    right: float  # end of a line
    name: float  # width of the names
    times: tuple[float, float]
    time: float
    over_best: float
    peaks: tuple[float, float] | None  # None where it has no room or no peak is known
    peak: float | None  # None likewise
    error: float

    @property
    def small_pt(self) -> float:
        """The size of the text of headings and axes."""
        return self.text_pt - 0.5


@dataclass(frozen=True)
class Texts:
    """A method in words."""

    name: list[str]  # its lines
    time: str
    over_best: str
    peak: str
    error: str


def columns(rankings: Sequence[Ranking], width: float, narrow_text: bool) -> Columns:
    """Numbers as wide as the widest of them, names as wide as there is room, and the axes in what is left.

    `width` is that of a line in points; `narrow_text` asks for the smaller text of print.
    """
    narrow = width < NARROW
    text_pt = 6.0 if narrow else 7.0 if narrow_text else 8.0
    named = [(entry, found.baseline) for found in rankings for entry in found.entries]
    names = max((room_pt(name_of(entry, baseline), text_pt, bold=True) for entry, baseline in named), default=0.0)
    shown = [entry for entry, _ in named if not entry.failed]
    right = width - MARGIN
    before = right - _widest([_error(entry) for entry in shown], ERROR, text_pt) - GAP
    peak = peaks = None
    if width > NARROWEST and any(not math.isnan(entry.peak_bytes) for entry in shown):
        peak = before
        before -= _widest([_peak(entry) for entry in shown], PEAK, text_pt) + GAP
        peaks = None if narrow else (before - PEAKS * width, before)
    over_best = before if peaks is None else peaks[0] - 2 * GAP
    time = over_best - _widest([_over_best(entry) for entry in shown], OVER_BEST, text_pt) - GAP
    end = time - _widest([_time(entry) for entry in shown], TIME, text_pt) - GAP
    name = min(names, (NAMES_OF_NARROW if narrow else NAMES) * width, end - GAP - MARGIN - LEAST_AXIS)
    return Columns(text_pt, right, name, (MARGIN + name + GAP, end), time, over_best, peaks, peak, right)


def _widest(texts: list[str], heading: tuple[str, str], text_pt: float) -> float:
    numbers = max((room_pt(text, text_pt, bold=True) for text in texts), default=0.0)
    return max(numbers, *(room_pt(line, text_pt - 0.5) for line in heading))


def texts(entry: Entry, baseline: Entry | None, placed: Columns) -> Texts:
    """What is written of a method; its name broken into lines that fit."""
    name = lines(name_of(entry, baseline), placed.name, placed.text_pt, MOST_LINES, bold=True)
    return Texts(name, _time(entry), _over_best(entry), _peak(entry), _error(entry))


def name_of(entry: Entry, baseline: Entry | None) -> str:
    """The method's name, which marks the baseline."""
    return drawable(entry.method) + (" (baseline)" if entry is baseline else "")


def _time(entry: Entry) -> str:
    mark = CONTENDED if entry.contended else ""
    return NONE if math.isnan(entry.median_s) else short_duration(entry.median_s) + mark


def _over_best(entry: Entry) -> str:
    if entry.wrong:
        return "wrong"
    if entry.approximate:
        return "≈"
    if math.isnan(entry.over_best):
        return NONE
    mark = UNDECIDED if entry.undecided else ""
    ratio = short(entry.over_best) if entry.over_best < MOST_DIGITS else f"{entry.over_best:.0e}"
    return f"{mark}{ratio}×"


def _peak(entry: Entry) -> str:
    return NONE if math.isnan(entry.peak_bytes) else significant(entry.peak_bytes / MIB)


def _error(entry: Entry) -> str:
    if entry.status == "nonfinite":
        return "NaN"
    if math.isnan(entry.error):
        return NONE
    if entry.wrong:
        return percent(entry.error)
    return f"{entry.error:.0e}" if entry.error else "0"
