"""The figures: what each shows, its panels and its scales. A failure is marked, never left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from harness.analysis.fits import FEWEST, MEASURES, Fit, fit
from harness.analysis.table import Analysis, differing, setting
from harness.record import plain
from harness.report.figures import fronts
from harness.report.figures.canvas import canvas, caption, drawing, empty, outer_labels, plain_numbers
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import FLOOR, STRIP_POINTS, TOLERANCE, draw, exponents, handles, styles
from harness.text import counted

POWERS = f"In brackets the 95 % interval of the fitted exponent of P ({FEWEST} sizes or more that are right)."


@dataclass(frozen=True)
class Axis:
    """What an axis shows: values are divided by `unit` when drawn."""

    column: str
    title: str
    unit: float = 1.0


SIZE = Axis("params", "parameters P")
MEMORY = Axis("tensor_peak_bytes", "tensor peak (MiB)", 2**20)


def time_against_size(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Median time of a call against P, with its interval over processes."""
    note = "Median over processes of each one's median, with its 95 % interval (below six processes: their range)."
    return _figure(analysis, SIZE, _time(analysis.rows, "median_s"), note, medium)


def memory_against_size(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Peak of tensor memory above the start of the call against P."""
    return _figure(analysis, SIZE, MEMORY, "Peak of tensor memory above the start of the call.", medium)


def error_against_size(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Relative error against P, a panel a dtype, with the tolerance."""
    axis = Axis("relative_error", "relative error")
    return _figure(analysis, SIZE, axis, "Frobenius distance from the reference over its norm.", medium)


def time_against_memory(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Median time of a call against peak tensor memory, and what no other method beats in both at the same P."""
    note = "Median time over processes with its 95 % interval (below six processes: their range)."
    return _figure(analysis, MEMORY, _time(analysis.rows, "median_s"), note, medium)


def _time(rows: DataFrame, column: str) -> Axis:
    slow = rows[column].max() >= 1
    return Axis(column, "time (s)" if slow else "time (ms)", 1.0 if slow else 1e-3)


def _figure(analysis: Analysis, x: Axis, y: Axis, note: str, medium: Medium) -> Figure:
    """Panels of prepared rows, a legend, and below what the numbers are and where they come from."""
    looks = styles(analysis.rows)
    rows, floors = _drawable(analysis.rows, x, y)
    placed = rows[rows["params"].notna()]
    keys = ["family", "quantity", *differing(placed)]
    panels = [(values, group) for values, group in placed.groupby(keys, dropna=False)] or [((), placed)]
    titles = [", ".join([*map(plain, values[:2]), *map(setting, keys[2:], values[2:])]) for values, _ in panels]
    tolerances = y.column == "relative_error" and placed["tolerance"].notna().any()
    powers = _powers(analysis, y) if x is SIZE and len(panels) == 1 else {}
    legend = handles(placed, looks, x is SIZE, bool(tolerances), any(floor is not None for floor in floors), medium)
    exponents(legend, powers)
    if x is not SIZE:
        legend += fronts.handles([group for _, group in panels], medium)
    lines = [
        group.loc[~group["drawn"], "label"].nunique() if x is SIZE else len(fronts.failures(group))
        for _, group in panels
    ]
    with drawing(medium):
        figure, axes, at = canvas(medium, titles, legend, [count * STRIP_POINTS for count in lines])
        for ax, (_, group) in zip(axes, panels, strict=False):
            if x is SIZE:
                draw(ax, group, looks, medium)
            else:
                fronts.draw(ax, group, looks, medium)
            for tolerance in group["tolerance"].dropna().unique() if tolerances else ():
                ax.axhline(tolerance, **medium.scaled(TOLERANCE))
            for line, floor in zip((ax.axvline, ax.axhline), floors, strict=True):
                if floor is not None:
                    line(floor, **medium.scaled(FLOOR))
        _scales(axes, placed, x, y, at.crowded)
        outer_labels(axes, len(panels), at.columns, x.title, y.title)
        lost = counted(rows.loc[rows["params"].isna() & ~rows.index.duplicated(), "status"])
        unplaced = f" Not drawn, since their P is unknown: {lost}." if lost else ""
        told = f" {POWERS}" if powers else ""
        caption(figure, f"{note}{told} {analysis.environment}.{unplaced}", medium)
    return figure


def _powers(analysis: Analysis, y: Axis) -> dict[str, Fit]:
    """The fitted power of P of each label, of a measure that is one."""
    measure = next((name for name, column in MEASURES.items() if column == y.column), None)
    found = {str(label): fit(own, measure) for label, own in analysis.cells.groupby("label")} if measure else {}
    return {label: seen for label, seen in found.items() if seen is not None}


def _drawable(rows: DataFrame, x: Axis, y: Axis) -> tuple[DataFrame, list[float | None]]:
    """Rows with columns x and y in drawn units and `drawn`, whether both are there; where zeros of each are put.

    Zero has no place on a logarithmic axis: it is put on a floor, a decade or so below all other values.
    """
    rows, floors = rows.copy(), []
    for name, axis in (("x", x), ("y", y)):
        values = rows[axis.column] / axis.unit
        least = values[values > 0].min()
        floor = 10.0 ** (math.floor(math.log10(least)) - 1) if least > 0 else 1e-17
        rows[name] = values.mask(values <= 0, floor)
        floors.append(floor if (values <= 0).any() else None)
    rows["drawn"] = rows["x"].notna() & rows["y"].notna()
    rows["contended"] &= y.column == "median_s"
    return rows, floors


def _scales(axes: list[Axes], rows: DataFrame, x: Axis, y: Axis, crowded: float) -> None:
    """Logarithmic scales with plain numbers, fewer where crowded, wide enough for every P; none where nothing is."""
    for ax in axes:
        ax.set(xscale="log", yscale="log")
        ax.grid(which="major", linewidth=0.5, color="0.9")
        if x is SIZE and len(rows):
            margin = max((rows["x"].max() / rows["x"].min()) ** 0.07, 1.1)
            ax.set_xlim(rows["x"].min() / margin, rows["x"].max() * margin)
        if not rows["drawn"].any():
            empty(ax)
            if x is not SIZE or rows.empty:
                ax.set(xlim=(0.1, 10), xticks=[])
                continue
        named = y.column != "relative_error" and bool(rows["drawn"].any())
        plain_numbers(ax, crowded, (ax.xaxis, ax.yaxis) if named else (ax.xaxis,))
