"""Time, memory and error against P: lines with their names at the ends. A failure is marked, never left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from harness.analysis.curves import Panel, failures, panels, points
from harness.analysis.fits import FEWEST, MEASURES, OF_A_FIT, Fit, fit
from harness.analysis.table import Analysis
from harness.report.figures import failed
from harness.report.figures.canvas import canvas, caption, drawing, empty, outer_labels, plain_numbers
from harness.report.figures.labels import Label, attach, folded, settle
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import (
    BAR,
    FLOOR,
    SUSPECT,
    TOLERANCE,
    WRONG,
    Style,
    approximate,
    explained,
    rings,
    styles,
)
from harness.report.readable import MIB
from harness.text import counted

POWERS = f"P with an exponent: the fitted growth ({FEWEST} sizes or more that are right)."
NAMED = 25  # methods of a panel, up to which those in grey have their names
NAME_LETTERS, NARROW_LETTERS = 34, 22  # of a line of a name, on a page and in a column
NARROW_IN = 4.5
MOST = 12  # panels of a figure; table.csv has the values of all
FEW, MANY = 4, 100  # panels of a figure where there are more than MANY: most are left out in either case


@dataclass(frozen=True)
class Axis:
    """What an axis shows: values are divided by `unit` when drawn."""

    column: str
    title: str
    unit: float = 1.0


@dataclass(frozen=True)
class View:
    """A panel with a measure of it."""

    panel: Panel
    y: Axis
    title: str
    points: DataFrame  # with x and y in drawn units, NaN where nothing was measured
    floor: float | None  # where zeros are drawn; None where there are none


MEMORY = Axis("tensor_peak_bytes", "tensor peak (MiB)", MIB)
ERROR = Axis("relative_error", "relative error")
TIME_NOTE = (
    "Time: median over processes of each one's median, with its 95 % interval (below six processes: their range)."
)
ERROR_NOTE = "Error: Frobenius distance from the reference over its norm."
MEMORY_NOTE = "Memory: peak of tensor memory above the start of the call."


def time_against_size(
    analysis: Analysis,
    medium: Medium = SCREEN,
    looks: Mapping[str, Style] | None = None,
    drawn: Sequence[Panel] | None = None,
) -> Figure:
    """Median time of a call against P, with its interval over processes, in all panels or in those that are named."""
    return _against_size(analysis, time_of(analysis.cells), TIME_NOTE, medium, looks, drawn)


def memory_against_size(
    analysis: Analysis,
    medium: Medium = SCREEN,
    looks: Mapping[str, Style] | None = None,
    drawn: Sequence[Panel] | None = None,
) -> Figure:
    """Peak of tensor memory above the start of the call against P."""
    return _against_size(analysis, MEMORY, MEMORY_NOTE, medium, looks, drawn)


def error_against_size(
    analysis: Analysis,
    medium: Medium = SCREEN,
    looks: Mapping[str, Style] | None = None,
    drawn: Sequence[Panel] | None = None,
) -> Figure:
    """Relative error against P, a panel a dtype, with the tolerance."""
    return _against_size(analysis, ERROR, ERROR_NOTE, medium, looks, drawn)


def _against_size(
    analysis: Analysis,
    measure: Axis,
    note: str,
    medium: Medium,
    looks: Mapping[str, Style] | None,
    drawn: Sequence[Panel] | None,
) -> Figure:
    shown = panels(analysis) if drawn is None else drawn
    note = " ".join([note, *left_out(shown)])
    return figure(analysis, views(fitting(shown), [measure]), note, medium, looks)


def fitting(shown: Sequence[Panel]) -> Sequence[Panel]:
    """The panels that a figure has room for."""
    return shown[: MOST if len(shown) <= MANY else FEW]


def left_out(shown: Sequence[Panel]) -> list[str]:
    """A sentence on the panels for which a figure has no room, where there are any."""
    missing = len(shown) - len(fitting(shown))
    return [f"Panels that are not drawn: {missing} (values: table.csv)."] if missing else []


def time_of(rows: DataFrame) -> Axis:
    """The axis of the median time, in the unit that suits it."""
    slow = rows["median_s"].max() >= 1
    return Axis("median_s", "time (s)" if slow else "time (ms)", 1.0 if slow else 1e-3)


def views(drawn: Sequence[Panel], measures: Sequence[Axis]) -> list[View]:
    """A view for each panel and measure; zeros of a measure lie on one floor, as they have no place on its axis."""
    found = []
    for y in measures:
        seen = [points(panel.cells, y.column) for panel in drawn]
        values = pandas.concat([each["value"] for each in seen]) / y.unit if seen else pandas.Series(dtype=float)
        floor = floor_of(values)
        for panel, each in zip(drawn, seen, strict=True):
            scaled = each.assign(x=each["params"], y=(each["value"] / y.unit).clip(lower=floor))
            zeros = floor if (each["value"] <= 0).any() else None
            found.append(View(panel, y, panel.title if len(measures) == 1 else "", scaled, zeros))
    return found


def floor_of(values: pandas.Series, otherwise: float = 1e-17) -> float:
    """A decade or so below all values above 0, where zeros are drawn; `otherwise` where there is no such value."""
    least = values[values > 0].min()
    return 10.0 ** (math.floor(math.log10(least)) - 1) if least > 0 else otherwise


def figure(
    analysis: Analysis,
    drawn: Sequence[View],
    note: str,
    medium: Medium,
    looks: Mapping[str, Style] | None = None,
    shared: bool = True,
) -> Figure:
    """The views with names at the ends of lines, and below what the numbers are and where they come from."""
    looks = looks or styles(analysis)
    letters = letters_of(medium, 1 if shared else len(drawn))
    labels = [_labels(view, looks, medium, letters) for view in drawn]
    lost = [failed.lines(failures(view.points), looks, letters, _named(view)) for view in drawn]
    tolerances = [_tolerances(view) for view in drawn]
    with drawing(medium):
        titles = [view.title for view in drawn] or [""]
        strips = [sum(line.height_pt for line in lines) for lines in lost]
        made, axes, at = canvas(medium, titles, strips=strips, labels=labels, shared=shared)
        if not drawn:
            empty(axes[0])
        for ax, view, lines in zip(axes, drawn, lost, strict=False):
            draw(ax, view, looks, medium)
            failed.draw(ax, lines, medium)
        _scales(axes, drawn, at.crowded)
        attached = [attach(ax, own, medium) for ax, own in zip(axes, labels, strict=False)]
        for ax, view, levels in zip(axes, drawn, tolerances, strict=False):
            for level in levels:
                ax.axhline(level, **medium.scaled(TOLERANCE))
            if view.floor is not None:
                ax.axhline(view.floor, **medium.scaled(FLOOR))
        outer_labels(axes, at.columns, _size_label(drawn), [view.y.title for view in drawn])
        cells = pandas.concat([view.panel.cells for view in drawn]) if drawn else analysis.cells
        told = [note, *_explained(drawn, lost, medium), f"{analysis.environment_of(cells)}.", *_unplaced(analysis)]
        caption(made, " ".join(told), medium)
        settle(made, axes, attached)
    return made


def _size_label(drawn: Sequence[View]) -> str:
    """What P counts in these panels."""
    of_each = {view.panel.of_each_sample for view in drawn}
    if of_each == {True}:
        return "variables of all samples, P = N D"
    return "parameters P" if True not in of_each else "parameters, or variables of all samples, P"


def draw(ax: Axes, view: View, looks: Mapping[str, Style], medium: Medium) -> None:
    """A line with markers and intervals for each method, the grey ones below."""
    known = view.points[view.points["y"].notna()]
    for label, own in known.groupby("label"):
        look = looks[str(label)]
        ax.plot(own["x"], own["y"], **medium.scaled(look.line | look.mark))
        bars = own[own["low"] < own["high"]]
        ax.vlines(
            bars["x"], bars["low"] / view.y.unit, bars["high"] / view.y.unit, color=look.colour, **medium.scaled(BAR)
        )
    rings(ax, known, medium)


def letters_of(medium: Medium, columns: int = 1) -> int:
    """How many letters of a name go into a line, with so many panels side by side."""
    narrow = columns > 1 if medium.width_in is None else medium.width_in / medium.scale / columns < NARROW_IN
    return NARROW_LETTERS if narrow else NAME_LETTERS


def _named(view: View) -> bool:
    """Whether the grey methods have their names."""
    return view.points["label"].nunique() <= NAMED


def _labels(view: View, looks: Mapping[str, Style], medium: Medium, letters: int) -> list[Label]:
    """Those of lines, and of the lines across."""
    found = []
    known = view.points[view.points["y"].notna()]
    for label, own in known.groupby("label"):
        look = looks[str(label)]
        if not (look.emphasised or _named(view)):
            continue
        (x, y), (colour, size) = own[["x", "y"]].iloc[-1], look.text
        wrong = own["status"].isin(WRONG)
        text = folded(str(label), letters) + _power(view, str(label)) + _verdict(own)
        found.append(Label(text, x, y, SUSPECT["markeredgecolor"] if wrong.any() else colour, size * medium.scale))
    right = view.points["x"].max()
    across = [(level, "tolerance") for level in _tolerances(view)]
    across += [(view.floor, "exactly 0")] if view.floor is not None else []
    return found + [Label(text, right, level, TOLERANCE["color"], 6.0 * medium.scale) for level, text in across]


def _power(view: View, label: str) -> str:
    """The fitted exponent of P of one method's measure, where there is one."""
    measure = next((name for name, column in MEASURES.items() if column == view.y.column), None)
    cells = view.panel.cells
    right = cells[OF_A_FIT][(cells["label"] == label) & (cells["status"] == "ok")]
    seen: Fit | None = fit(right, measure) if measure else None
    return f"  $P^{{{seen.exponent:.1f}}}$" if seen else ""


def _verdict(points: DataFrame) -> str:
    """`wrong` or `wrong at 2 of 4 sizes` below a name; empty where all is right."""
    for status, word in WRONG.items():
        count = int((points["status"] == status).sum())
        if count:
            return f"\n{word}" if count == len(points) else f"\n{word} at {count} of {len(points)} sizes"
    return ""


def _tolerances(view: View) -> list[float]:
    """Those of errors that are drawn."""
    drawn = view.y is ERROR and view.points["y"].notna().any()
    return sorted(view.panel.cells["tolerance"].dropna().unique()) if drawn else []


def _explained(drawn: Sequence[View], lost: Sequence[Sequence[failed.Line]], medium: Medium) -> list[str]:
    """What the marks of these views mean, and what differs between the sizes of a family."""
    if not drawn:
        return []
    every = pandas.concat([view.points[view.points["y"].notna()] for view in drawn])
    told = [POWERS] if any(_power(view, label) for view in drawn for label in view.points["label"].unique()) else []
    told += explained(every, medium) + approximate(every)
    told += ["Above the axes: what failed at which P."] if any(lost) else []
    grey = max((view.points["label"].nunique() for view in drawn if not _named(view)), default=0)
    told += ["Thin and grey: the other methods."] if grey else []
    varying = dict.fromkeys((view.panel.family, view.panel.varying) for view in drawn if view.panel.varying)
    return told + [f"The sizes of {family} differ in {options}." for family, options in varying]


def _unplaced(analysis: Analysis) -> list[str]:
    lost = analysis.cells.loc[analysis.cells["params"].isna(), "status"]
    return [f"Not drawn, since their P is unknown: {counted(lost)}."] if len(lost) else []


def _scales(axes: Sequence[Axes], drawn: Sequence[View], crowded: float) -> None:
    """Logarithmic scales with plain numbers, fewer where crowded, wide enough for every P; none where nothing is."""
    sizes = [size for view in drawn for size in view.points["x"]]
    for ax, view in zip(axes, drawn, strict=False):
        ax.set(xscale="log", yscale="log")
        ax.grid(which="major", linewidth=0.5, color="0.9")
        margin = max((max(sizes) / min(sizes)) ** 0.04, 1.05)
        ax.set_xlim(min(sizes) / margin, max(sizes) * margin)
        known = any(other.points["y"].notna().any() for other in drawn if other.y is view.y)
        if not known:
            empty(ax)
        plain_numbers(ax, crowded, (ax.xaxis, ax.yaxis) if known and view.y is not ERROR else (ax.xaxis,))
