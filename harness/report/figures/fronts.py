"""Time against memory: each P's Pareto front, and what a method trades by its chunk size."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from pandas import DataFrame

from harness.analysis.fronts import WHOLE, front
from harness.analysis.fronts import points as points_of
from harness.report.figures.page_size import Medium
from harness.report.figures.style import BAR, LINE, MARKER, STRIP_POINTS, WORDS, Style, led, rings

FRONT: dict[str, Any] = {
    "color": "0.8",
    "linewidth": 2.5,
    "solid_capstyle": "butt",
    "solid_joinstyle": "miter",
    "zorder": 1,
}
CHAIN: dict[str, Any] = {"color": "0.35", "linewidth": 0.8, "zorder": 1.5}
IN_LINE = 8  # markers before the text of a line above the axes


def draw(ax: Axes, rows: DataFrame, looks: Mapping[str, Style], medium: Medium) -> None:
    """One panel: markers for rows with columns x and y where `drawn`; what is not, in words above the axes.

    A way's sizes are joined by its line; where it has several chunk sizes, these are joined instead, at each P.
    """
    points = points_of(rows)
    several = points["params"].nunique() > 1
    for params, group in points[points["whole"]].groupby("params"):
        _front(ax, group, f"P = {params:.0f}" if several else "", medium)
    for label, own in points.groupby("label"):
        look = looks[str(label)]
        joined = "" if own["chain"].notna().any() else (0, look.dashes) if look.dashes else "-"
        shape = medium.scaled(LINE | MARKER) | {"color": look.colour, "marker": look.marker, "linestyle": joined}
        ax.plot(own["x"], own["y"], **shape)
        ax.vlines(own["x"], own["low"], own["high"], color=look.colour, **medium.scaled(BAR))
    for _, own in points.groupby(["chain", "params"]):
        _chain(ax, own, medium)
    rings(ax, points, medium)
    for line, (text, labels) in enumerate(failures(rows)):
        raised = led(ax, line, [looks[label] for label in labels], medium)
        aside = ScaledTranslation(len(labels) * STRIP_POINTS * medium.scale / 72, 0, ax.figure.dpi_scale_trans)
        place = ax.transAxes + raised + aside
        ax.text(0, 1, text, fontsize=6 * medium.scale, color="0.2", va="center", transform=place)


def failures(rows: DataFrame) -> list[tuple[str, list[str]]]:
    """Lines of a panel's rows that are not `drawn`: what became of them at which P, and the labels it is true of."""
    missing = rows[~rows["drawn"]]
    one_size = rows["params"].nunique() == 1
    told: dict[str, list[str]] = {}
    for label, failed in missing.groupby("label"):
        said = [
            f"{WORDS.get(str(status), status)}"
            + ("" if one_size else f" at P={', '.join(f'{size:.0f}' for size in sorted(set(group['params'])))}")
            for status, group in failed.groupby("status")
        ]
        told.setdefault(textwrap.shorten("; ".join(said), 54, placeholder=" …"), []).append(str(label))
    return [
        (text, labels[start : start + IN_LINE])
        for text, labels in told.items()
        for start in range(0, len(labels), IN_LINE)
    ]


def handles(panels: Iterable[DataFrame], medium: Medium) -> list[Line2D]:
    """For the legend: the lines that are no method's."""
    panels = [points_of(group) for group in panels]
    found = []
    if any((points[points["whole"]].groupby("params").size() > 1).any() for points in panels):
        found.append(Line2D([], [], **medium.scaled(FRONT), label="Pareto front"))
    if any(points["chain"].notna().any() for points in panels):
        found.append(Line2D([], [], **medium.scaled(CHAIN), label="one method's chunk sizes"))
    return found


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
