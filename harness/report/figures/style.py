"""How a figure's rows look: a method's colour, marker and dash, the marks of failures, the legend, safe text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import seaborn
from matplotlib.axes import Axes
from pandas import DataFrame

from harness.analysis.emphasis import baseline_of, emphasised
from harness.analysis.table import APPROXIMATE, Analysis
from harness.record import plain
from harness.report.figures.page_size import Medium
from harness.text import listed

# Of the methods in colour: seaborn's "colorblind" palette less grey, the colour of the others, and less pink and
# yellow, which do not show in print; black is the baseline's. Crosses are kept for what is measured but not right.
COLOURS = [seaborn.color_palette("colorblind")[index] for index in (0, 1, 2, 4, 9, 3, 5)] + [(0.0, 0.0, 0.5)]
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "o")
FONT = "DejaVu Sans"
BLACK, GREY = (0.1, 0.1, 0.1), (0.68, 0.68, 0.68)
RED = "#a00000"  # of what is wrong
DASHED = (4.0, 1.5)
SUSPECT: dict[str, Any] = {
    "marker": "X",
    "markersize": 10,
    "markeredgewidth": 0.8,
    "markerfacecolor": "none",
    "markeredgecolor": RED,
    "linestyle": "",
}
CONTENDED: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markeredgewidth": 0.8,
    "markerfacecolor": "none",
    "markeredgecolor": "0.5",
    "linestyle": "",
}
MARKER: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.4}
LINE: dict[str, Any] = {"linewidth": 1.1}
BAR: dict[str, Any] = {"linewidth": 0.8}  # of an interval
TOLERANCE: dict[str, Any] = {"color": "0.35", "linewidth": 1.0, "linestyle": (0, (6, 2))}
FLOOR: dict[str, Any] = {"color": "0.35", "linewidth": 0.8, "linestyle": (0, (1, 2))}
# What stands for a value that is not there.
LETTERS = {
    "timeout": "T",
    "oom": "M",
    "unsupported": "U",
    "crashed": "C",
    "error": "E",
    "nonfinite": "N",
    "wrong": "W",
    "ok": "?",
    APPROXIMATE: "?",
}
WRONG = {"wrong": "wrong", "nonfinite": "not finite"}  # statuses of what is measured and not right
WORDS = {"oom": "out of memory", "ok": "not measured", APPROXIMATE: "not measured"}


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure of a report."""

    colour: tuple[float, float, float]
    marker: str
    dashes: tuple[float, ...]  # on, off, ... in line widths; () is a solid line
    emphasised: bool  # in colour; the others are thin and grey

    @property
    def line(self) -> dict[str, Any]:
        """Of its line."""
        solid = "-" if not self.dashes else (0, self.dashes)
        width = LINE["linewidth"] if self.emphasised else 0.6
        return {"color": self.colour, "linestyle": solid, "linewidth": width, "zorder": 2.2 if self.emphasised else 1.8}

    @property
    def mark(self) -> dict[str, Any]:
        """Of a point of it."""
        return {"marker": self.marker} | (MARKER if self.emphasised else MARKER | {"markersize": 2.5})

    @property
    def text(self) -> tuple[Any, float]:
        """Colour, darker than that of its line, and size (points) of its name."""
        darker = tuple(0.75 * part for part in self.colour)
        return (darker, 7.5) if self.emphasised else ("0.45", 6.0)


def styles(analysis: Analysis, baseline: str | None = None, highlight: Sequence[str] = ()) -> dict[str, Style]:
    """The style of each method label, chosen here once for all figures of a report.

    The methods in colour (`harness.analysis.emphasis`) have theirs by their place among the sorted labels, where
    numbers count as numbers: chunk_size=8 comes before chunk_size=16. The baseline is black and dashed. Raises
    ValueError for highlighted methods that no record has.
    """
    base = baseline_of(analysis, baseline)
    chosen = emphasised(analysis, baseline, highlight)
    coloured = sorted(set(chosen) - {base}, key=_natural)
    looks = {label: Style(COLOURS[place], MARKERS[place], (), True) for place, label in enumerate(coloured)}
    if base in chosen:
        looks[base] = Style(BLACK, MARKERS[-1], DASHED, True)
    other = Style(GREY, "o", (), False)
    return {label: looks.get(label, other) for label in sorted(set(analysis.rows["label"]), key=_natural)}


def sequence(names: Sequence[str]) -> dict[str, Style]:
    """A style for each of some names: all colours with solid lines, then all again with dashed ones, then grey."""
    colours = len(COLOURS)
    found = [Style(colour, marker, (), True) for colour, marker in zip(COLOURS, MARKERS, strict=True)]
    found += [Style(COLOURS[place], MARKERS[place - 1], DASHED, True) for place in range(colours)]
    others = [Style(GREY, "o", (), False)] * max(len(names) - len(found), 0)
    return dict(zip(names, [*found, *others], strict=False))


def _natural(label: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", label)]


def rings(ax: Axes, points: DataFrame, medium: Medium) -> None:
    """What is around the markers of points that are not right or, where the medium has rings, that were contended."""
    if medium.rings:
        contended = points[points["contended"]]
        ax.plot(contended["x"], contended["y"], **medium.scaled(CONTENDED))
    suspect = points[points["status"].isin(WRONG)]
    ax.plot(suspect["x"], suspect["y"], **medium.scaled(SUSPECT))


def explained(points: DataFrame, medium: Medium) -> list[str]:
    """What the marks of `rings` around these points mean, in words."""
    crossed = " or ".join(WRONG[status] for status in WRONG if (points["status"] == status).any())
    told = [f"Red crosses: measured, but {crossed}."] if crossed else []
    if medium.rings and points["contended"].any():
        told.append("Grey rings: measured under contention, or while the GPU throttled.")
    return told


def approximate(points: DataFrame) -> list[str]:
    """Which methods of these points approximate by design, in words."""
    names = sorted(set(points.loc[points["status"] == APPROXIMATE, "label"]))
    return [f"Approximations by design, which no comparison counts: {listed(names)}."] if names else []


def letter(status: object) -> dict[str, Any]:
    """The mark of a value that is not there."""
    return {"marker": rf"$\mathbf{{{LETTERS[str(status)]}}}$", "markersize": 6, "markeredgewidth": 0, "linestyle": ""}


def safe(text: str, width: int) -> str:
    """Arbitrary text for matplotlib: wrapped, no mathematics, no glyph the font has not, no hidden legend entry."""
    wrapped = textwrap.fill(drawable(text), width).replace("$", r"\$")
    return f" {wrapped}" if wrapped.startswith("_") else wrapped


def drawable(text: str) -> str:
    """Arbitrary text on one line without a glyph that the font has not."""
    return plain(text).encode("latin-1", "backslashreplace").decode("latin-1")
