"""What failed, above the axes of a panel over P: a line a method, with a letter at each P and the reason in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from pandas import DataFrame

from harness.report.figures.labels import GAP_POINTS, LINE_HEIGHT, folded
from harness.report.figures.page_size import Medium
from harness.report.figures.style import WORDS, Style, letter


@dataclass(frozen=True)
class Line:
    """The failures of one method, or of all that have no name in this panel."""

    text: str
    marks: tuple[tuple[str, float], ...]  # status and P
    colour: Any  # of the letters
    written: tuple[Any, float]  # colour and size (points) of the text

    @property
    def height_pt(self) -> float:
        """Before the medium's scale."""
        return max(9.0, (self.text.count("\n") + 1) * self.written[1] * LINE_HEIGHT + 1)


def lines(failures: DataFrame, looks: Mapping[str, Style], letters: int, named: bool) -> list[Line]:
    """A line for each method in colour, and for each other one if these are `named`, else one for each status."""
    own_line = failures["label"].map(lambda label: named or looks[str(label)].emphasised).astype(bool)
    found = []
    for label, own in failures[own_line].groupby("label"):
        look = looks[str(label)]
        text = _joined(folded(str(label), letters), _reasons(own), letters)
        found.append(Line(text, _marks(own), look.colour, look.text))
    for status, rest in failures[~own_line].groupby("status", sort=False):
        other = looks[str(rest["label"].iloc[0])]
        count = rest["label"].nunique()
        text = _joined(f"{count} other{'s' if count > 1 else ''}", _word(status), letters)
        found.append(Line(text, _marks(rest), other.colour, other.text))
    return found


def draw(ax: Axes, above: Sequence[Line], medium: Medium) -> None:
    """Letters at their P, and the text to the right."""
    up_pt = 2.0
    for line in above:
        centre = ScaledTranslation(0, (up_pt + line.height_pt / 2) * medium.scale / 72, ax.figure.dpi_scale_trans)
        up_pt += line.height_pt
        for status, x in line.marks:
            place = blended_transform_factory(ax.transData, ax.transAxes) + centre
            ax.plot([x], [1.0], **medium.scaled(letter(status)), color=line.colour, clip_on=False, transform=place)
        beside = ScaledTranslation(GAP_POINTS * medium.scale / 72, 0, ax.figure.dpi_scale_trans)
        colour, size = line.written
        ax.text(
            1,
            1,
            line.text,
            color=colour,
            fontsize=size * medium.scale,
            linespacing=1.1,
            va="center",
            transform=ax.transAxes + centre + beside,
        )


def _marks(failures: DataFrame) -> tuple[tuple[str, float], ...]:
    pairs = failures[["status", "params"]].drop_duplicates().sort_values("params")
    return tuple((str(status), float(params)) for status, params in pairs.itertuples(index=False))


def _reasons(failures: DataFrame) -> str:
    return ", ".join(dict.fromkeys(map(_word, failures["status"])))


def _word(status: object) -> str:
    return WORDS.get(str(status), str(status))


def _joined(name: str, reason: str, letters: int) -> str:
    """In one line where that has room."""
    return f"{name}{': ' if len(name) + len(reason) + 2 <= letters else chr(10)}{reason}"
