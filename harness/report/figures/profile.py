"""The performance profile, drawn."""

from __future__ import annotations

from typing import Any

import numpy
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.profiles import Profile
from harness.analysis.table import Analysis
from harness.report.figures.canvas import canvas, caption, drawing, empty, plain_numbers
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import LINE, safe, styles


def performance_profile(found: Profile, analysis: Analysis, medium: Medium = SCREEN) -> Figure:
    """The share of cells in which a method takes at most tau times as long as the fastest that is right.

    Where not every method was run on every cell, the legend shows of how many cells each one's share is.
    """
    looks = styles(analysis.rows)
    legend = []
    for method in found.order:
        of = "" if found.whole else f" of {len(found.of(method))}"
        label = f"{safe(method, 34)} ({100 * found.fastest(method):.0f} %{of})"
        look: dict[str, Any] = {"color": looks[method].colour, "dashes": looks[method].dashes or (None, None)}
        legend.append(Line2D([], [], label=label, **look, **medium.scaled(LINE)))
    with drawing(medium):
        figure, (ax,), _ = canvas(medium, [""], legend)
        finite = found.times.to_numpy()[numpy.isfinite(found.times.to_numpy())]
        end = 1.2 * max(finite, default=1.0)
        for method, handle in zip(found.order, legend, strict=True):
            times = found.of(method)
            steps = numpy.sort(times[numpy.isfinite(times)])
            heights = [0.0, *numpy.arange(1, len(steps) + 1) / len(times)]
            ax.step(
                [1, *steps, end],
                [*heights, heights[-1]],
                where="post",
                color=handle.get_color(),
                dashes=looks[method].dashes or (None, None),
                **medium.scaled(LINE),
            )
        ax.set(xscale="log", xlim=(1, end), ylim=(0, 1.02))
        ax.set(xlabel="times as long as the fastest, at most", ylabel="share of cells")
        ax.grid(linewidth=0.5, color="0.9")
        plain_numbers(ax, 1.0, (ax.xaxis,))
        if not len(finite):
            empty(ax)
        caption(figure, f"{_cells(found)} {analysis.environment}.", medium)
    return figure


def _cells(found: Profile) -> str:
    """Which cells the profile is of, and what its numbers mean."""
    cells = f"{len(found.times)} cells"
    if len(found.times) < found.cells:
        cells = f"{len(found.times)} of {found.cells} cells: those that all methods were run on"
    elif not found.whole:
        cells = f"{len(found.times)} cells, not all run on each: the legend shows of how many"
    return f"{cells}; what failed or is wrong never gets there. In brackets: the share in which it is fastest."
