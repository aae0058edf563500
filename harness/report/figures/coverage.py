"""Which way is right on which case, drawn."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pandas import DataFrame

from harness.analysis.coverage import SHOWN, VERDICTS, listed, order, percent, verdicts
from harness.analysis.table import environment, prepared
from harness.report.figures.canvas import RC, caption
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import safe

LETTER_IN = 0.05  # width of a letter of a name
NAMES_IN = 4.2  # of the names of cases, at most
FIGURES_IN = 0.28  # width of a cell that has room for an error


def coverage(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """Methods against cases, coloured by verdict; cases with the same verdicts share a line, which names them."""
    cells = verdicts(frame)
    ways = order(cells)
    wide = cells.pivot(index=["kind", "case"], columns="way", values="verdict")[ways]
    errors = cells.pivot(index=["kind", "case"], columns="way", values="relative_error")[ways]
    lines = []
    for pattern, group in wide.groupby([wide[way] for way in ways], sort=False):
        kinds, cases = (list(group.index.get_level_values(level)) for level in ("kind", "case"))
        lines.append((kinds, cases, pattern, errors.loc[group.index].max()))
    lines.sort(
        key=lambda line: (
            -sum(verdict == "wrong" for verdict in line[2]),
            -sum(verdict == "not finite" for verdict in line[2]),
            -len(line[1]),
        )
    )
    names = list(VERDICTS)
    codes = [[names.index(verdict) for verdict in pattern] for _, _, pattern, _ in lines]
    room = 0.36 * len(ways) + NAMES_IN if medium.width_in is None else medium.width_in / medium.scale
    names_in = min(NAMES_IN, 0.5 * room)
    side = min(0.36, (room - names_in) / len(ways))  # of a cell
    told = [safe(listed(cases), min(2 * SHOWN, int(names_in / LETTER_IN))) for _, cases, _, _ in lines]
    tall = sum(0.19 + 0.1 * text.count("\n") for text in told) + 2.6
    size = (room * medium.scale, tall * medium.scale)
    small: dict[str, Any] = {"fontsize": 5.5 * medium.scale}
    with matplotlib.rc_context(RC):
        figure = Figure(size, layout="constrained")
        ax = figure.subplots()
        colours = ListedColormap([colour for colour, _ in VERDICTS.values()])
        ax.pcolormesh(
            codes, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, edgecolors="white", linewidth=min(0.8, 8 * side)
        )
        ax.invert_yaxis()
        for y, (_, _, pattern, worst) in enumerate(lines):
            for x, (way, verdict) in enumerate(zip(ways, pattern, strict=True)):
                if verdict == "wrong" and side > FIGURES_IN:
                    ax.text(x + 0.5, y + 0.5, percent(worst[way]), ha="center", va="center", color="white", **small)
        ax.set_yticks([y + 0.5 for y in range(len(lines))], told)
        ax.set_xticks(
            [x + 0.5 for x in range(len(ways))],
            [safe(way, SHOWN) for way in ways],
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
            for place, (name, (colour, _)) in enumerate(VERDICTS.items())
            if place in used
        ]
        figure.legend(
            handles=patches,
            loc="outside upper left",
            ncols=max(1, min(len(patches), int(room))),
            fontsize=7 * medium.scale,
            frameon=False,
        )
        note = f"{wide.shape[0]} cases; those with the same verdicts share a line. {environment(prepared(frame))}."
        caption(figure, note, medium)
    return figure
