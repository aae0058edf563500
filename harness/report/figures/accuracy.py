"""Error of estimates against the Hessian-vector products and the time that they spend, beside the exact methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from harness.analysis.accuracy import Accuracy
from harness.analysis.table import Analysis
from harness.report.figures.canvas import caption, drawing, empty, plain_numbers
from harness.report.figures.curves import NAME_LETTERS, floor_of, letters_of
from harness.report.figures.labels import Label, attach, folded, settle
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import BAR, BLACK, FLOOR, Style, explained, rings, safe, sequence

MOST = 6  # rows of panels in a figure; accuracy.md has all
SCREEN_IN = 9.0  # width where none was asked for
ROW_OF_WIDTH, LEAST_ROW_IN = 0.25, 1.6  # height of a row of panels, over the width of the figure and at least
LEAST = 1e-17  # errors below are drawn at the floor
EXACT: dict[str, Any] = {"color": BLACK, "linewidth": 1.0, "linestyle": (0, (1, 1.5))}
EXACT_PT = 6.0  # size of the name of an exact method
NARROW = 2  # ratio of an axis's ends below which it is widened
NOTE = (
    "Points: medians over the runs of a method with one budget; bars: their range. Error: relative to the truth. "
    "Dotted vertical line: the time of the fastest exact method, whose error is of rounding only."
)


def figures(found: Sequence[Accuracy], analysis: Analysis, medium: Medium = SCREEN) -> dict[str, Figure]:
    """A figure `accuracy_trace` for each quantity, with a row for each problem, P and setting."""
    drawn = {}
    for quantity in dict.fromkeys(accuracy.quantity for accuracy in found):
        own = [accuracy for accuracy in found if accuracy.quantity == quantity]
        looks = sequence(sorted({line for accuracy in own for line in _estimates(accuracy)["line"]}))
        drawn[f"accuracy_{quantity}"] = figure(own, analysis, looks, medium)
    return drawn


def figure(
    found: Sequence[Accuracy], analysis: Analysis, looks: Mapping[str, Style], medium: Medium = SCREEN
) -> Figure:
    """A row of two panels for each of these: error against products on the left, against time on the right."""
    shown = found[:MOST]
    every = pandas.concat([_estimates(accuracy) for accuracy in shown])
    floor = floor_of(every["error"].where(every["error"] >= LEAST))
    labels = [_labels(accuracy, looks, floor, medium) for accuracy in shown]
    width = medium.width_in or SCREEN_IN
    row = max(ROW_OF_WIDTH * width, LEAST_ROW_IN * medium.scale)
    with drawing(medium):
        made = Figure((width, row * len(shown) + 0.8 * medium.scale), layout="constrained")
        axes = made.subplots(len(shown), 2, sharex="col", sharey="row", squeeze=False)
        for accuracy, (left, right) in zip(shown, axes, strict=True):
            left.set_title(safe(accuracy.title, 40), loc="left", fontsize=8 * medium.scale)
            left.set_ylabel("relative error")
            points = _drawable(_estimates(accuracy), floor)
            _draw(left, points.assign(x=points["products"]), looks, medium)
            _draw(right, points.assign(x=points["time_s"]), looks, medium)
            _draw_exact(right, accuracy, medium)
            if (points["error"] < LEAST).any():
                for ax in (left, right):
                    ax.axhline(floor, **medium.scaled(FLOOR))
        for ax, name in zip(axes[-1], ("Hessian-vector products", "time (s)"), strict=True):
            ax.set_xlabel(name)
            plain_numbers(ax, 2.0, (ax.xaxis,))
        attached = [attach(right, own, medium) for (_, right), own in zip(axes, labels, strict=True)]
        caption(made, " ".join([NOTE, *_explained(every, len(found), medium), f"{analysis.environment}."]), medium)
        settle(made, list(axes[:, 1]), attached)
    return made


def _estimates(accuracy: Accuracy) -> DataFrame:
    """The points that are drawn: of estimates, with their true error."""
    points = accuracy.points
    return points[~points["exact"] & points["error"].notna()]


def _drawable(points: DataFrame, floor: float) -> DataFrame:
    """With y, low and high: errors, of which those below the least stand on the floor."""
    columns = {"y": "error", "low": "error_low", "high": "error_high"}
    return points.assign(**{name: _above(points[column], floor) for name, column in columns.items()})


def _above(errors: Series, floor: float) -> Series:
    return errors.where(errors >= LEAST, floor)


def _draw(ax: Axes, points: DataFrame, looks: Mapping[str, Style], medium: Medium) -> None:
    """A line for each method through its points with their ranges, on logarithmic scales."""
    ax.set(xscale="log", yscale="log")
    ax.grid(which="major", linewidth=0.5, color="0.9")
    known = points[points["x"] > 0]
    for line, own in known.groupby("line"):
        look = looks[str(line)]
        own = own.sort_values("x")
        ax.plot(own["x"], own["y"], **medium.scaled(look.line | look.mark))
        ax.vlines(own["x"], own["low"], own["high"], color=look.colour, **medium.scaled(BAR))
    rings(ax, known, medium)
    if known.empty:
        empty(ax)
        return
    for widen, (low, high) in ((ax.set_xlim, ax.get_xlim()), (ax.set_ylim, ax.get_ylim())):
        if high < NARROW * low:  # a single point
            widen(low / NARROW, high * NARROW)


def _draw_exact(ax: Axes, accuracy: Accuracy, medium: Medium) -> None:
    """A line at the time of the fastest exact method that is right, with its name."""
    points = accuracy.points
    exact = points[points["exact"] & (points["status"] == "ok") & points["time_s"].gt(0)]
    if exact.empty:
        return
    fastest = exact.sort_values("time_s").iloc[0]
    ax.axvline(fastest["time_s"], **medium.scaled(EXACT))
    ax.annotate(
        safe(str(fastest["line"]), NAME_LETTERS),
        (fastest["time_s"], 0),
        (-1.5 * medium.scale, 3 * medium.scale),
        ax.get_xaxis_transform(),
        "offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=EXACT_PT * medium.scale,
        color=BLACK,
    )


def _labels(accuracy: Accuracy, looks: Mapping[str, Style], floor: float, medium: Medium) -> list[Label]:
    """The name of each method at its slowest point."""
    found = []
    letters = letters_of(medium)
    points = _drawable(_estimates(accuracy), floor)
    points = points[points["time_s"] > 0]
    for line, own in points.groupby("line"):
        colour, size = looks[str(line)].text
        last = own.sort_values("time_s").iloc[-1]
        found.append(Label(folded(str(line), letters), last["time_s"], last["y"], colour, size * medium.scale))
    return found


def _explained(points: DataFrame, panels: int, medium: Medium) -> list[str]:
    """What the marks mean, and what is not drawn."""
    told = explained(points, medium)
    if (points["error"] < LEAST).any():
        told.append(f"Errors below {LEAST:g}, such as 0, are drawn on the dotted horizontal line.")
    if panels > MOST:
        told.append(f"Rows that are not drawn: {panels - MOST} (values: accuracy.md).")
    return told
