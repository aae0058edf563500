"""What curves are drawn on: panels with titles, a legend beside or above them, and a line of small text below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.report.figures.page_size import SCREEN, Medium, Places, places
from harness.report.figures.style import safe

RC: dict[Any, Any] = {
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "svg.hashsalt": "harness",
}
# Decades of a logarithmic axis, and the numbers of each that are told where it has fewer.
STEPS = ((0.7, range(1, 10)), (1.1, (1, 2, 3, 5)), (1.6, (1, 2, 5)), (3.0, (1, 3)), (math.inf, (1,)))


@contextmanager
def drawing(medium: Medium) -> Iterator[None]:
    """In which curves are drawn, with text as large as the medium asks."""
    context = seaborn.plotting_context("paper", font_scale=medium.labels_pt / SCREEN.labels_pt)
    with matplotlib.rc_context(RC), seaborn.axes_style("whitegrid"), context:
        yield


def canvas(
    medium: Medium, titles: Sequence[str], legend: Sequence[Line2D], strips: Sequence[float] = ()
) -> tuple[Figure, list[Axes], Places]:
    """A figure with axes for each title, hidden ones for what is left of the last line, and a legend.

    `strips`: how high (points) what stands between each axes and its title is.
    """
    strips = strips or [0.0] * len(titles)
    at = places(medium, len(titles), max(strips) / 72, [str(handle.get_label()) for handle in legend])
    figure = Figure(at.size_in, layout="constrained")
    axes = list(figure.subplots(at.lines, at.columns, sharex=True, sharey=True, squeeze=False).flat)
    for ax, title, strip in zip(axes, titles, strips, strict=False):
        ax.set_title(safe(title, at.title), fontsize=8 * medium.scale, pad=(strip + 5) * medium.scale)
    for ax in axes[len(titles) :]:
        ax.set_visible(False)
    if legend:
        figure.legend(handles=legend, fontsize=7 * medium.scale, frameon=False, handlelength=2.8, **at.legend)
    return figure, axes, at


def outer_labels(axes: Sequence[Axes], used: int, columns: int, x: str, y: str) -> None:
    """Labels only where no used panel follows below or to the left."""
    for index, ax in enumerate(axes):
        if index < used:
            ax.set(xlabel=x, ylabel=y)
        ax.label_outer()
        if index < used <= index + columns:
            ax.xaxis.set_tick_params(labelbottom=True)
            ax.set_xlabel(x, visible=True)


def caption(figure: Figure, text: str, medium: Medium) -> None:
    """Small text below a figure."""
    width = int(figure.get_figwidth() / medium.scale * 19)
    figure.supxlabel(safe(text, width), fontsize=6 * medium.scale, x=0.01, ha="left", color="0.3")


def empty(ax: Axes, said: str = "nothing was measured") -> None:
    """Say so on axes that have nothing to show."""
    ax.set(ylim=(0.1, 10), yticks=[])
    ax.text(0.5, 0.5, said, ha="center", transform=ax.transAxes)


def plain_numbers(ax: Axes, crowded: float, named: Sequence[XAxis | YAxis] = ()) -> None:
    """Plain numbers on logarithmic axes (`named`, or both), fewer where crowded."""
    for axis in named or (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        decades = math.log10(high / low) * (crowded if axis is ax.xaxis else 1)
        steps = next(steps for most, steps in STEPS if decades < most)
        axis.set_major_locator(LogLocator(subs=list(steps)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png, `stem`.pdf and `stem`.svg, the same bytes for the same figure."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf", "svg")]
    with matplotlib.rc_context(RC):
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"CreationDate": None})
        figure.savefig(paths[2], metadata={"Date": None})
    return paths
