"""The performance profile, drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
from matplotlib.figure import Figure

from harness.analysis.profiles import Profile
from harness.analysis.table import Analysis
from harness.report.figures.canvas import canvas, caption, drawing, empty, plain_numbers
from harness.report.figures.curves import NAMED, letters_of
from harness.report.figures.labels import Label, attach, folded, settle
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import Style, styles


def performance_profile(
    found: Profile, analysis: Analysis, medium: Medium = SCREEN, looks: Mapping[str, Style] | None = None
) -> Figure:
    """The share of cells in which a method takes at most tau times as long as the fastest that is right.

    Beside each name is the share in which its median time is the least and, where not every method was run on every
    cell, of how many.
    """
    looks = looks or styles(analysis)
    finite = found.times.to_numpy()[numpy.isfinite(found.times.to_numpy())]
    end = 1.2 * max(finite, default=1.0)
    named = len(found.order) <= NAMED
    labels = [
        _label(found, method, looks[method], end, medium) for method in found.order if named or looks[method].emphasised
    ]
    with drawing(medium):
        figure, (ax,), _ = canvas(medium, [""], labels=[labels])
        for method in found.order:
            times = found.of(method)
            steps = numpy.sort(times[numpy.isfinite(times)])
            heights = [0.0, *numpy.arange(1, len(steps) + 1) / len(times)]
            ax.step([1, *steps, end], [*heights, heights[-1]], where="post", **medium.scaled(looks[method].line))
        ax.set(xscale="log", xlim=(1, end), ylim=(0, 1.02))
        ax.set(xlabel="times as long as the fastest, at most", ylabel="share of cells")
        ax.grid(linewidth=0.5, color="0.9")
        plain_numbers(ax, 1.0, (ax.xaxis,))
        attached = attach(ax, labels, medium)
        if not len(finite):
            empty(ax)
        others = "" if named else " Thin and grey: the other methods."
        caption(figure, f"{_cells(found)}{others} {analysis.environment}.", medium)
        settle(figure, [ax], [attached])
    return figure


def _label(found: Profile, method: str, look: Style, end: float, medium: Medium) -> Label:
    colour, size = look.text
    of = "" if found.whole else f" of {len(found.of(method))}"
    text = f"{folded(method, letters_of(medium))} ({100 * found.fastest(method):.0f} %{of})"
    return Label(text, end, found.right(method), colour, size * medium.scale)


def _cells(found: Profile) -> str:
    """Which cells the profile is of, and what its numbers mean."""
    cells = f"{len(found.times)} cells"
    if len(found.times) < found.cells:
        cells = f"{len(found.times)} of {found.cells} cells: those that all methods were run on"
    elif not found.whole:
        cells = f"{len(found.times)} cells, not all run on each: beside a name is of how many"
    least = "In brackets: the share in which its median time is the least."
    return f"{cells}; what failed or is wrong never gets there. {least}"
