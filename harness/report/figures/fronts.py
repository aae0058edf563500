"""Time against memory: each P's Pareto front, and what a method trades by its chunk size."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from pandas import DataFrame

from harness.analysis.curves import Panel, panels
from harness.analysis.fronts import WHOLE, front
from harness.analysis.fronts import points as points_of
from harness.analysis.table import Analysis
from harness.report.figures.canvas import canvas, caption, drawing, empty, outer_labels, plain_numbers
from harness.report.figures.curves import MEMORY, Axis, fitting, floor_of, left_out, letters_of, time_of
from harness.report.figures.labels import Label, attach, folded, settle, shortened
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import BAR, WORDS, Style, approximate, explained, rings, styles
from harness.text import listed

FRONT: dict[str, Any] = {
    "color": "0.8",
    "linewidth": 2.5,
    "solid_capstyle": "butt",
    "solid_joinstyle": "miter",
    "zorder": 1,
}
CHAIN: dict[str, Any] = {"color": "0.35", "linewidth": 0.8, "zorder": 1.5}
LINE_POINTS = 9.0  # height of a line above the axes
ZERO = 1e-3  # where zeros are drawn if all is 0
LEFT_IN = 0.6  # width of what is left of the axes
NOTE = "Median time over processes with its 95 % interval (below six processes: their range)."


def time_against_memory(
    analysis: Analysis,
    medium: Medium = SCREEN,
    looks: Mapping[str, Style] | None = None,
    drawn: Sequence[Panel] | None = None,
) -> Figure:
    """Median time of a call against peak tensor memory, and what no other method beats in both at the same P."""
    looks = looks or styles(analysis)
    shown = panels(analysis) if drawn is None else drawn
    drawn = fitting(shown)
    y = time_of(analysis.cells)
    rows = [_drawable(analysis.rows_of(panel.cells), y) for panel in drawn]
    found = [points_of(own) for own in rows]
    labels = [_labels(points, looks, medium) for points in found]
    lost = [failures(own) for own in rows]
    with drawing(medium):
        strips = [len(lines) * LINE_POINTS for lines in lost]
        figure, axes, at = canvas(medium, [panel.title for panel in drawn] or [""], strips, labels)
        every = pandas.concat(found) if found else DataFrame()
        for ax, points, lines in zip(axes, found, lost, strict=False):
            ax.set(xscale="log", yscale="log")
            ax.grid(which="major", linewidth=0.5, color="0.9")
            draw(ax, points, looks, medium)
            _above(ax, lines, at.size_in[0] / at.columns - LEFT_IN * medium.scale, medium)
        if every.empty:
            empty(axes[0])
            axes[0].set(xlim=(0.1, 10), xticks=[])
        else:
            axes[0].set(xlim=_limits(every[["x"]]), ylim=_limits(every[["y", "low", "high"]]))
            for ax in axes:
                plain_numbers(ax, at.crowded)
        attached = [attach(ax, own, medium) for ax, own in zip(axes, labels, strict=False)]
        outer_labels(axes, at.columns, MEMORY.title, [y.title] * len(drawn))
        told = [NOTE, *left_out(shown), *_explained(found, looks, medium), f"{analysis.environment}."]
        caption(figure, " ".join(told), medium)
        settle(figure, axes, attached)
    return figure


def _limits(values: DataFrame) -> tuple[float, float]:
    """Of an axis that shows these values, with a margin."""
    known = values.to_numpy(float)
    low, high = float(known[known > 0].min()), float(numpy.nanmax(known))
    margin = max((high / low) ** 0.06, 1.3)
    return low / margin, high * margin


def _drawable(rows: DataFrame, y: Axis) -> DataFrame:
    """Rows with columns x and y in drawn units, zeros a decade below all else.

    `drawn`: whether both are there; `zero`: whether one of them is exactly 0.
    """
    memory, time = rows[MEMORY.column] / MEMORY.unit, rows[y.column] / y.unit
    rows = rows.assign(x=memory.clip(lower=floor_of(memory, ZERO)), y=time.clip(lower=floor_of(time, ZERO)))
    drawn = rows["x"].notna() & rows["y"].notna()
    return rows.assign(drawn=drawn, zero=drawn & ((memory <= 0) | (time <= 0)))


def draw(ax: Axes, points: DataFrame, looks: Mapping[str, Style], medium: Medium) -> None:
    """Markers, those in grey below; fronts and chains of chunk sizes.

    A method's sizes are joined by its line; where it has several chunk sizes, these are joined instead, at each P.
    """
    several = points["params"].nunique() > 1
    for params, group in points[points["whole"]].groupby("params"):
        _front(ax, group, f"P = {params:.0f}" if several else "", medium)
    for label, own in points.groupby("label"):
        look = looks[str(label)]
        joined = {"linestyle": ""} if own["chain"].notna().any() else {}
        ax.plot(own["x"], own["y"], **medium.scaled(look.line | look.mark | joined))
        ax.vlines(own["x"], own["low"], own["high"], color=look.colour, **medium.scaled(BAR))
    for _, own in points.groupby(["chain", "params"]):
        _chain(ax, own, medium)
    rings(ax, points, medium)


def failures(rows: DataFrame) -> list[str]:
    """Lines of a panel's rows that are not `drawn`: what became of which methods at which P."""
    missing = rows[~rows["drawn"]]
    one_size = rows["params"].nunique() == 1
    told: dict[str, list[str]] = {}
    for label, failed in missing.groupby("label"):
        said = [
            f"{WORDS.get(str(status), status)}"
            + ("" if one_size else f" at P={', '.join(f'{size:.0f}' for size in sorted(set(group['params'])))}")
            for status, group in failed.groupby("status")
        ]
        told.setdefault(textwrap.shorten("; ".join(said), 54, placeholder=" ..."), []).append(str(label))
    return [f"{text}: {listed(labels)}" for text, labels in told.items()]


def _above(ax: Axes, lines: Sequence[str], room_in: float, medium: Medium) -> None:
    """What failed, in words."""
    for place, line in enumerate(lines):
        up = ScaledTranslation(0, (place + 0.6) * LINE_POINTS * medium.scale / 72, ax.figure.dpi_scale_trans)
        text = shortened(line, 6 * medium.scale, 72 * room_in)
        ax.text(0, 1, text, fontsize=6 * medium.scale, color="0.2", va="center", transform=ax.transAxes + up)


def _labels(points: DataFrame, looks: Mapping[str, Style], medium: Medium) -> list[Label]:
    """The names of the methods in colour, at the fastest point of their largest P."""
    found = []
    for label, own in points.groupby("label"):
        look = looks[str(label)]
        if look.emphasised:
            colour, size = look.text
            last = own[own["params"] == own["params"].max()].sort_values("y").iloc[0]
            text = folded(str(label), letters_of(medium))
            found.append(Label(text, last["x"], last["y"], colour, size * medium.scale))
    return found


def _explained(panels: Sequence[DataFrame], looks: Mapping[str, Style], medium: Medium) -> list[str]:
    """What the lines and marks of these points mean."""
    if not panels:
        return []
    every = pandas.concat(panels)
    told = []
    if any((points[points["whole"]].groupby("params").size() > 1).any() for points in panels):
        told.append("Broad grey steps: the Pareto front of a P.")
    if every["chain"].notna().any():
        told.append("Thin dark lines: one method's chunk sizes.")
    if every["zero"].any():
        told.append("What is exactly 0 is drawn a decade below all else.")
    if not all(looks[str(label)].emphasised for label in every["label"]):
        told.append("Grey dots: the other methods.")
    return told + explained(every, medium) + approximate(every)


def _front(ax: Axes, points: DataFrame, name: str, medium: Medium) -> None:
    """Steps around what no point of the same P is below and left of, as far as there are points to compare with."""
    if len(points) < 2:
        return
    best = front(points)
    x, y = best["x"].to_numpy(), best["y"].to_numpy()
    steps_x = [x[0], *(edge for edge in x[1:] for _ in range(2)), points["x"].max()]
    heights = [height for height in y for _ in range(2)]
    ax.plot([x[0], *steps_x], [points["y"].max(), *heights], **medium.scaled(FRONT))
    if name:
        ax.annotate(
            name,
            (points["x"].max(), y[-1]),
            (0, 2 * medium.scale),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=6 * medium.scale,
            color="0.35",
        )


def _chain(ax: Axes, points: DataFrame, medium: Medium) -> None:
    """The points of one method and P by chunk size, each with it; what is no size (`auto`) is named and not joined."""
    sizes = pandas.to_numeric(points["chunk"].replace(WHOLE, "inf"), errors="coerce")
    known = points.assign(size=sizes).dropna(subset="size").sort_values("size")
    ax.plot(known["x"], known["y"], **medium.scaled(CHAIN))
    for _, point in points.iterrows():
        ax.annotate(
            point["chunk"],
            (point["x"], point["y"]),
            (4 * medium.scale, 4 * medium.scale),
            ha="left",
            textcoords="offset points",
            fontsize=6 * medium.scale,
            color="0.2",
        )
