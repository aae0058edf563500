"""Which method is right on which network, drawn."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis.coverage import order, outcomes
from harness.analysis.table import Analysis
from harness.report.figures.canvas import RC, caption
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import safe
from harness.text import LISTED, listed, percent

COLOURS = {
    "right": "#b7d7ea",
    "approximate": "#c9e2b3",
    "wrong": "#d55e00",
    "not finite": "#e69f00",
    "refuses": "#d9d9d9",
    "fails": "#8c6bb1",
    "not for it": "#ffffff",
    "not run": "#f5f2dc",
}
LETTER_IN = 0.05  # width of a letter of a name
NAMES_IN = 4.2  # of the names of networks, at most
FIGURES_IN = 0.28  # width of a cell that has room for an error


def coverage(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Methods against networks, coloured by outcome; networks with the same outcomes share a line, which names them."""
    found = outcomes(analysis)
    methods = order(found)
    wide = found.pivot(index=["kind", "network"], columns="method", values="outcome")[methods]
    errors = found.pivot(index=["kind", "network"], columns="method", values="relative_error")[methods]
    lines = []
    for pattern, group in wide.groupby([wide[method] for method in methods], sort=False):
        kinds, networks = (list(group.index.get_level_values(level)) for level in ("kind", "network"))
        lines.append((kinds, networks, pattern, errors.loc[group.index].max()))
    lines.sort(
        key=lambda line: (
            -sum(outcome == "wrong" for outcome in line[2]),
            -sum(outcome == "not finite" for outcome in line[2]),
            -len(line[1]),
        )
    )
    names = list(COLOURS)
    codes = [[names.index(outcome) for outcome in pattern] for _, _, pattern, _ in lines]
    room = 0.36 * len(methods) + NAMES_IN if medium.width_in is None else medium.width_in / medium.scale
    names_in = min(NAMES_IN, 0.5 * room)
    side = min(0.36, (room - names_in) / len(methods))  # of a cell
    told = [safe(listed(networks), min(2 * LISTED, int(names_in / LETTER_IN))) for _, networks, _, _ in lines]
    tall = sum(0.19 + 0.1 * text.count("\n") for text in told) + 2.6
    size = (room * medium.scale, tall * medium.scale)
    small: dict[str, Any] = {"fontsize": 5.5 * medium.scale}
    with matplotlib.rc_context(RC):
        figure = Figure(size, layout="constrained")
        ax = figure.subplots()
        colours = ListedColormap(list(COLOURS.values()))
        ax.pcolormesh(
            codes, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, edgecolors="white", linewidth=min(0.8, 8 * side)
        )
        ax.invert_yaxis()
        for y, (_, _, pattern, worst) in enumerate(lines):
            for x, (method, outcome) in enumerate(zip(methods, pattern, strict=True)):
                if outcome == "wrong" and side > FIGURES_IN:
                    ax.text(x + 0.5, y + 0.5, percent(worst[method]), ha="center", va="center", color="white", **small)
        ax.set_yticks([y + 0.5 for y in range(len(lines))], told)
        ax.set_xticks(
            [x + 0.5 for x in range(len(methods))],
            [safe(method, LISTED) for method in methods],
            rotation=55,
            ha="left",
            rotation_mode="anchor",
        )
        ax.tick_params(
            labelsize=6.5 * medium.scale, length=0, labeltop=True, labelbottom=False, top=False, bottom=False
        )
        ax.tick_params(axis="x", labelsize=min(6.5, max(3.0, 60 * side)) * medium.scale)
        for spine in ax.spines.values():
            spine.set_visible(False)
        used = {name for row in codes for name in row}
        patches = [
            Patch(facecolor=colour, edgecolor="0.6", label=name)
            for place, (name, colour) in enumerate(COLOURS.items())
            if place in used
        ]
        figure.legend(
            handles=patches,
            loc="outside upper left",
            ncols=max(1, min(len(patches), int(room))),
            fontsize=7 * medium.scale,
            frameon=False,
        )
        note = f"{wide.shape[0]} networks; those with the same outcomes share a line. {analysis.environment}."
        caption(figure, note, medium)
    return figure
