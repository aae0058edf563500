"""What curves are drawn on: panels with titles, room for labels beside them, and small text below."""

from __future__ import annotations

import io
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
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness import record
from harness.report.figures.labels import GAP_POINTS, Label, lay_out
from harness.report.figures.page_size import SCREEN, Medium, Places, places
from harness.report.figures.style import FONT, safe

RC: dict[Any, Any] = {
    "text.usetex": False,
    "font.family": FONT,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "text.hinting": "none",  # hinted letters are as wide as the resolution wants, so that text leaves its place
    "svg.hashsalt": "harness",
}
# Decades of a logarithmic axis, and the numbers of each that are told where it has fewer.
STEPS = ((0.7, range(1, 10)), (1.1, (1, 2, 3, 5)), (1.6, (1, 2, 5)), (3.0, (1, 3)), (math.inf, (1,)))


# The kinds of files of a figure, and with which options they are saved.
SAVED: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
AXIS_IN = 0.45  # height of the numbers and the name of an axis


@contextmanager
def drawing(medium: Medium) -> Iterator[None]:
    """In which curves are drawn, with text as large as the medium asks."""
    context = seaborn.plotting_context("paper", font_scale=medium.labels_pt / SCREEN.labels_pt)
    with matplotlib.rc_context(RC), seaborn.axes_style("whitegrid"), context:
        yield


def canvas(
    medium: Medium,
    titles: Sequence[str],
    strips: Sequence[float] = (),
    labels: Sequence[Sequence[Label]] = (),
    shared: bool = True,
) -> tuple[Figure, list[Axes], Places]:
    """A figure with axes for each title, and hidden ones for what is left of the last line.

    `strips`: how high (points) what stands between each axes and its title is. `labels`: what will stand to the right
    of each axes. `shared`: whether the axes have the same scale of y.
    """
    strips = strips or [0.0] * len(titles)
    every = [label for beside in labels for label in beside]
    beside_pt = max((label.width_pt + GAP_POINTS * medium.scale for label in every), default=0.0)
    least_pt = max((sum(label.height_pt for label in beside) for beside in labels), default=0.0)
    at = places(
        medium,
        len(titles),
        max(strips) / 72,
        beside_pt / 72 / medium.scale,
        least_pt / 72 / medium.scale + AXIS_IN,
    )
    figure = Figure(at.size_in, layout="constrained")
    axes = list(figure.subplots(at.lines, at.columns, sharex=True, sharey=shared, squeeze=False).flat)
    for ax, title, strip in zip(axes, titles, strips, strict=False):
        own = {"fontsize": 8 * medium.scale, "pad": (strip + 5) * medium.scale}
        ax.set_title(safe(title, at.title), loc="left", y=1.0, **own)  # without y, each drawing looks for ticks above
    for ax in axes[len(titles) :]:
        ax.set_visible(False)
    return figure, axes, at


def outer_labels(axes: Sequence[Axes], columns: int, x: str, titles: Sequence[str]) -> None:
    """The name of x only where no used panel follows below, and that of y (one a used panel) where it changes."""
    used = len(titles)
    for index, ax in enumerate(axes):
        last = index < used <= index + columns
        ax.xaxis.set_tick_params(labelbottom=last)
        ax.set_xlabel(x if last else "")
        first = index < used and (index % columns == 0 or len(set(titles)) > 1)
        ax.yaxis.set_tick_params(labelleft=first)
        ax.set_ylabel(titles[index] if first else "")


def caption(figure: Figure, text: str, medium: Medium) -> None:
    """Small text below a figure; where captions are not drawn, the figure keeps it as its label (see `save`)."""
    if not medium.captioned:
        figure.set_label(text)
        return
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
        axis.set_minor_locator(NullLocator())  # they would not show, and take most of the time of an axis


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png, `stem`.pdf and `stem`.svg, the same bytes for the same figure; `stem`.txt of its label.

    Raises StorageError where a file cannot be written.
    """
    paths = []
    with matplotlib.rc_context(RC):
        lay_out(figure)
        for kind, options in SAVED.items():
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, **options)
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            record.write_bytes(picture.getvalue(), paths[-1])
    if figure.get_label():
        paths.append(stem.with_name(f"{stem.name}.txt"))
        record.write_text(f"{figure.get_label()}\n", paths[-1])
    return paths
