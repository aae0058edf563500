"""How far any two results are from each other, from their sketches: between methods, dtypes, devices, versions."""

from __future__ import annotations

import math

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from pandas import DataFrame

from harness.analysis.distances import comparable, distances
from harness.analysis.table import Analysis
from harness.report.figures.canvas import RC, caption, empty
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import safe

PANELS = 9  # that are drawn
NAME_LETTERS = 40  # of a result's name, in a line
LETTER_IN, BAR_IN = 0.045, 0.8  # width of one; of the bar of colours


def disagreement(analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """Heat map of the distances between results, a panel a problem (the first nine): powers of ten, dark is far."""
    found = comparable(analysis)
    panels = found[:PANELS]
    most = max((len(group) for _, group in panels), default=2)
    side, columns = 0.22 * most + 1.9, min(len(panels), 3) or 1
    if medium.width_in is not None:
        room = medium.width_in / medium.scale - BAR_IN
        columns = min(columns, max(1, int(room / side)))
        side = min(room / columns, 1.4 * side)
    lines = math.ceil(len(panels) / columns) or 1
    letters = min(NAME_LETTERS, int(0.5 * side / LETTER_IN))
    size = (medium.width_in or columns * side + BAR_IN, (lines * side + 0.4) * medium.scale)
    with matplotlib.rc_context(RC):
        figure = Figure(size, layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for ax, (title, group) in zip(axes, panels, strict=False):
            drawn = _panel(ax, distances(group), letters, medium)
            beside = min(letters, max(map(len, group["result"]))) * LETTER_IN
            ax.set_title(safe(title, int(16 * (side - beside - 0.2))), fontsize=8 * medium.scale)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        if panels:
            bar = figure.colorbar(drawn, ax=axes, shrink=0.6)
            bar.set_label("log10 of the relative distance", fontsize=8 * medium.scale)
            bar.ax.tick_params(labelsize=7 * medium.scale)
        else:
            empty(axes[0], "no two results to compare")
            axes[0].set(xticks=[], visible=True)
        some = f" The first {PANELS} of {len(found)}." if len(found) > PANELS else ""
        caption(figure, f"Estimated from 32 sketches.{some} {analysis.environment}.", medium)
    return figure


def _panel(ax: Axes, table: DataFrame, letters: int, medium: Medium) -> ScalarMappable:
    values = numpy.log10(numpy.clip(table.to_numpy(), 1e-17, None))
    drawn = ax.pcolormesh(values, cmap="cividis_r", vmin=-17, vmax=0, edgecolors="white", linewidth=0.4)
    ticks = [place + 0.5 for place in range(len(table))]
    names = [safe(str(way), letters) for way in table.index]
    ax.set_xticks(ticks, names, rotation=90, fontsize=5.5 * medium.scale)
    ax.set_yticks(ticks, names, fontsize=5.5 * medium.scale)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    return drawn
