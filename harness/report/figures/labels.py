"""Names at the ends of lines instead of a legend: beside the axes, spread so that none covers another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from harness.report.figures.fitting import width_pt
from harness.report.figures.page_size import Medium
from harness.report.figures.style import safe

GAP_POINTS = 14.0  # from the axes to their labels, where the leader lines are
LEADER_GAP_POINTS = 3.0  # from a leader line to its text
LINE_HEIGHT = 1.25  # of text, in font sizes
LETTER = 0.6  # width of one, in font sizes
LEADER: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.6}


@dataclass(frozen=True)
class Label:
    """A text for the line that ends at (x, y), in the coordinates of the data."""

    text: str
    x: float
    y: float
    colour: Any
    size_pt: float

    @property
    def height_pt(self) -> float:
        """Of its lines."""
        return (self.text.count("\n") + 1) * self.size_pt * LINE_HEIGHT

    @property
    def width_pt(self) -> float:
        """Of its longest line, estimated; the marks of mathematics have no width."""
        shown = re.sub(r"(?<!\\)[$^{}]", "", self.text)
        return max(map(len, shown.split("\n"))) * self.size_pt * LETTER


def folded(name: str, letters: int) -> str:
    """A name safe to draw, in lines of at most so many letters, which end after `_` where they can."""
    lines = [""]
    for part in re.findall(r"[^_\s]*(?:[_\s]|$)", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(safe(line, letters) for line in lines).strip("\n") or "?"


def shortened(text: str, size_pt: float, room_pt: float) -> str:
    """A line safe to draw, cut where it has no room."""
    shown = cut = safe(text, len(text) + 9)
    while cut and width_pt(shown, size_pt) > room_pt:
        cut = cut[: int(0.95 * len(cut))].rstrip("\\")
        shown = f"{cut}..."
    return shown


def attach(ax: Axes, labels: Sequence[Label], medium: Medium) -> list[tuple[Label, Annotation]]:
    """Put labels to the right of axes, all at one height; `settle` spreads them once the axes have their place."""
    beside = ScaledTranslation(GAP_POINTS * medium.scale / 72, 0, ax.figure.dpi_scale_trans)
    return [
        (
            label,
            ax.annotate(
                label.text,
                (label.x, label.y),
                (1, 0.5),
                textcoords=ax.transAxes + beside,
                color=label.colour,
                fontsize=label.size_pt,
                linespacing=1.1,
                va="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": label.colour,
                    "patchA": None,  # else a search of where the line leaves the box of the text
                    "shrinkA": LEADER_GAP_POINTS,
                    "shrinkB": 3 * medium.scale,
                    "relpos": (0, 0.5),
                    **medium.scaled(LEADER),
                },
            ),
        )
        for label in labels
    ]


def lay_out(figure: Figure) -> None:
    """Lay the figure out and keep that layout: before each file, matplotlib would draw what has a layout engine twice.

    The engine "none" is one too.
    """
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine(None)


def settle(figure: Figure, axes: Sequence[Axes], attached: Sequence[Sequence[tuple[Label, Annotation]]]) -> None:
    """Lay the figure out (see `lay_out`), and spread each axes' labels along their height."""
    lay_out(figure)
    for ax, labels in zip(axes, attached, strict=False):
        if not labels:
            continue
        height_pt = ax.get_position().height * figure.get_figheight() * 72
        ends = ax.transData.transform([(label.x, label.y) for label, _ in labels])
        wanted = ax.transAxes.inverted().transform(ends)[:, 1] * height_pt
        placed = spread(wanted.tolist(), [label.height_pt for label, _ in labels], height_pt)
        for (_, annotation), centre in zip(labels, placed, strict=True):
            annotation.set_position((1, centre / height_pt))


def spread(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """Centres of boxes between 0 and `room` that do not overlap and lie nearest (least squares) to the wanted ones.

    Of boxes that want the same centre, the first is put on top. Where the room is too small for all, they overlap
    evenly.
    """
    from scipy.optimize import isotonic_regression

    order = sorted(range(len(wanted)), key=lambda place: (wanted[place], -place))
    tall = numpy.array([heights[place] for place in order])
    below = numpy.concatenate([[0.0], numpy.cumsum(tall)[:-1]])
    squeeze = min(1.0, room / tall.sum())
    starts = squeeze * (below + tall / 2)  # the centres of boxes that are stacked from 0 on
    free = isotonic_regression([wanted[place] for place in order] - starts).x
    centres = starts + numpy.clip(free, 0, room - squeeze * tall.sum())
    placed = numpy.empty(len(order))
    placed[order] = centres
    return placed.tolist()
