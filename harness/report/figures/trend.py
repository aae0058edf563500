"""The trend as a figure: small multiples over time, the cells that step first."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from harness.analysis.trend import Trend
from harness.report.figures.canvas import RC
from harness.report.figures.style import COLOURS, CONTENDED, RED, safe
from harness.report.trend import headline
from harness.report.trend_view import Panel, panels

MOST = 24  # panels; trend.html has all
LEVEL: dict[str, Any] = {"color": "0.15", "linewidth": 1.3}
STEP: dict[str, Any] = {"color": RED, "linewidth": 1.0}
CHANGE: dict[str, Any] = {"color": "0.45", "linewidth": 0.8, "linestyle": (0, (4, 2))}
FAILURE: dict[str, Any] = {"marker": "x", "markersize": 4, "color": RED, "linestyle": ""}
RING: dict[str, Any] = CONTENDED | {"markersize": 6}


def figure(seen: Trend) -> Figure:
    """Each cell's nights (dots with their intervals), the medians between its steps, and what changed when."""
    drawn = panels(seen)[:MOST]
    columns = min(3, len(drawn))
    lines = math.ceil(len(drawn) / columns)
    size = (3.5 * columns + 0.2, 2.1 * lines + 1.1)
    left = f"; {len(seen.histories) - MOST} more cells are in trend.html" if len(seen.histories) > MOST else ""
    with matplotlib.rc_context(RC):
        made = Figure(size, layout="constrained")
        axes = list(made.subplots(lines, columns, sharex=True, squeeze=False).flat)
        for ax, panel in zip(axes, drawn, strict=False):
            _draw(ax, panel)
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(drawn))
            ax.xaxis.set_tick_params(labelbottom=index < len(drawn) <= index + columns)
        made.suptitle(safe(headline(seen) + left, int(size[0] * 11)), fontsize=10, x=0.01, ha="left")
        made.legend(handles=_legend(), loc="outside lower left", ncols=3 * columns, fontsize=6.5, frameon=False)
    return made


def _draw(ax: Axes, panel: Panel) -> None:
    for place, line in enumerate(panel.lines):
        dates = date2num(line["date"])
        colour = COLOURS[place % len(COLOURS)]
        ax.vlines(dates, line["low"], line["high"], color=colour, linewidth=0.7, alpha=0.5)
        ax.plot(dates, line["value"], marker="o", markersize=2.4, color=colour, linestyle="")
        ax.plot(dates[line["contended"]], line.loc[line["contended"], "value"], **RING)
    for start, end, value in panel.levels:
        ax.plot(date2num([start, end]), [value, value], **LEVEL)
    for look, events in ((CHANGE, panel.changes), (STEP, panel.steps)):
        for date, _ in events:
            ax.axvline(float(date2num(date)), **look)
    ax.margins(y=0.15)
    if panel.steps or panel.changes:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.55 * (high - low))  # room for what is said of them
    told = DataFrame([*panel.steps, *panel.changes], columns=["date", "text"])
    for date, texts in told.groupby("date")["text"]:
        text = "\n".join(safe(text, 23) for text in texts)
        ax.annotate(
            text,
            (date2num(date), 1),
            (2, -2),
            ax.get_xaxis_transform(),
            "offset points",
            rotation=90,
            va="top",
            fontsize=4.5,
            color="0.2",
            multialignment="right",
        )
    failed = [date2num(date) for date, _ in panel.failures]
    ax.plot(failed, [0.03] * len(failed), transform=ax.get_xaxis_transform(), **FAILURE)
    ax.set_title(safe(panel.cell, 56), fontsize=6.5, loc="left")
    ax.set_ylabel(panel.title, fontsize=6.5)
    ax.tick_params(labelsize=6)
    locator = AutoDateLocator(minticks=3, maxticks=6)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.xaxis.get_offset_text().set_fontsize(6)
    ax.spines[["top", "right"]].set_visible(False)


def _legend() -> list[Line2D]:
    return [
        Line2D(
            [], [], marker="o", markersize=2.4, color=COLOURS[0], linestyle="", label="a night (a colour a machine)"
        ),
        Line2D([], [], **LEVEL, label="median between steps"),
        Line2D([], [], **STEP, label="step"),
        Line2D([], [], **CHANGE, label="torch, machine or package changed"),
        Line2D([], [], **FAILURE, label="not ok"),
        Line2D([], [], **RING, label="measured under contention or throttling"),
    ]
