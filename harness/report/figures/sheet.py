"""A figure laid out like a table: text, lines, bands and axes at places in points from its top left corner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from harness.report.figures.fitting import width_pt
from harness.report.figures.page_size import Medium

MULTIPLES = (1, 3, 2, 5)  # of powers of ten: what an axis names first, as far as there is room
LEAST_RANGE = 4.0  # ratio of the ends of a logarithmic axis, at least: it holds a power of ten, or 2 or 5 times one


@dataclass(frozen=True)
class Sheet:
    """A figure and the medium whose scale enlarges all that is drawn on it."""

    figure: Figure
    medium: Medium

    def text(self, x: float, y: float, text: str, size_pt: float, **look: Any) -> None:
        """One line of text that is centred vertically at `y`."""
        left, up = self._inches(x, y)
        self.figure.text(
            left,
            up,
            text,
            fontsize=size_pt * self.medium.scale,
            transform=self.figure.dpi_scale_trans,
            va="center_baseline",
            parse_math=False,
            **look,
        )

    def line(self, x: tuple[float, float], y: float, **look: Any) -> None:
        """A horizontal line."""
        ends = [self._inches(end, y) for end in x]
        transform = self.figure.dpi_scale_trans
        self.figure.add_artist(Line2D(*zip(*ends, strict=True), transform=transform, **self.medium.scaled(look)))

    def band(self, x: tuple[float, float], y: tuple[float, float], colour: str) -> None:
        """A coloured rectangle behind all else."""
        left, bottom = self._inches(x[0], y[1])
        right, top = self._inches(x[1], y[0])
        size = right - left, top - bottom
        transform = self.figure.dpi_scale_trans
        self.figure.add_artist(
            Rectangle((left, bottom), *size, color=colour, linewidth=0, transform=transform, zorder=-2)
        )

    def axes(self, x: tuple[float, float], y: tuple[float, float]) -> Axes:
        """Axes without a frame whose y is that of the sheet."""
        width, height = self.figure.get_size_inches()
        left, bottom = self._inches(x[0], y[1])
        right, top = self._inches(x[1], y[0])
        ax = self.figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))
        ax.set(ylim=(y[1], y[0]), yticks=[], facecolor="none")
        ax.spines[:].set_visible(False)
        return ax

    def _inches(self, x: float, y: float) -> tuple[float, float]:
        """From the bottom left corner, as matplotlib has it."""
        scale = self.medium.scale / 72
        return x * scale, float(self.figure.get_figheight()) - y * scale


def limits(values: list[float]) -> tuple[float, float]:
    """The ends of a logarithmic axis for these values, of which those that are not above 0 have no place on it."""
    known = [value for value in values if 0 < value < math.inf]
    low, high = (min(known) / 1.3, max(known) * 1.3) if known else (1.0, 1.0)
    widen = max(math.sqrt(LEAST_RANGE * low / high), 1.0)
    return low / widen, high * widen


def ticks(ends: tuple[float, float], room_pt: float, written: Callable[[float], str], size_pt: float) -> list[float]:
    """Round numbers of a logarithmic axis, as many as have room for their text."""
    low, high = ends
    points = room_pt / math.log(high / low)
    found: dict[float, float] = {}  # each number's width, half a letter's gap on both sides
    for multiple in MULTIPLES:
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
            value = multiple * 10.0**power
            width = width_pt(written(value), size_pt) + 0.6 * size_pt
            free = all(abs(math.log(value / other)) * points > (width + beside) / 2 for other, beside in found.items())
            if low <= value <= high and free:
                found[value] = width
    return sorted(found)
