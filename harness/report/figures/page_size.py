"""What figures are made for, a screen, a paper or a talk: their width, the size of their text, the places in them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # pt is TeX's, which \the\columnwidth shows
LEAST_IN, MOST_IN = 2.5, 40.0
LENGTHS = ("fontsize", "linewidth", "markersize", "markeredgewidth")
PANEL_IN = 1.15  # least width of a panel


@dataclass(frozen=True)
class Medium:
    """Text and lines are `scale` times as large as on the screen, where axes are labelled in 9.6 pt."""

    style: str | None = None
    width_in: float | None = None  # None: as wide as the panels ask
    labels_pt: float = 9.6
    scale: float = 1.0
    captioned: bool = True  # whether captions are drawn in the figures, or written beside them
    rings: bool = True  # whether what was measured under contention is ringed

    @property
    def arguments(self) -> list[str]:
        """The options of the command line that ask for it."""
        found = [] if self.style is None else ["--style", self.style, "--width", f"{self.width_in}in"]
        found += [] if self.captioned else ["--no-caption"]
        return [*found, "--rings"] if self.style == "paper" and self.rings else found

    def scaled(self, look: Mapping[str, Any]) -> dict[str, Any]:
        """What a mark, a line or a text looks like, its lengths in points to scale."""
        return {key: value * self.scale if key in LENGTHS else value for key, value in look.items()}


SCREEN = Medium()
STYLES = {"paper": Medium("paper", 5.5, 8.0, rings=False), "talk": Medium("talk", 10.0, 16.0, 1.7)}


@dataclass(frozen=True)
class Places:
    """Where panels go."""

    columns: int
    lines: int
    title: int  # characters of a line above a panel
    crowded: float  # how many times wider a panel on the screen is, at least 1
    size_in: tuple[float, float]


def chosen(style: str | None, width_in: float | None, captioned: bool = True, rings: bool = False) -> Medium:
    """That of --style and --width; a width alone is a paper's. Raises ValueError where a talk's text has no room.

    A paper's figures have rings only where `rings` asks for them.
    """
    if style is None and width_in is None:
        return replace(SCREEN, captioned=captioned)
    found = STYLES[style or "paper"]
    found = replace(found, captioned=captioned, rings=found.rings or rings)
    if width_in is not None and width_in < LEAST_IN * found.scale:
        raise ValueError(f"--width is {width_in:.3g}in; with --style {style} give {LEAST_IN * found.scale:g}in or more")
    return replace(found, width_in=width_in or found.width_in)


def inches(text: str) -> float:
    """A width such as 8.5cm; raises argparse.ArgumentTypeError for what is none, or none of a figure."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(in|cm|mm|pt)", text, re.ASCII)
    width = float(found[1]) * INCHES[found[2]] if found else math.nan
    if not LEAST_IN <= width <= MOST_IN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no width of a figure; give a number and its unit ({', '.join(INCHES)}), such as 8.5cm or "
            f"3.3in, of {LEAST_IN:g} to {MOST_IN:g} inches"
        )
    return width


def places(medium: Medium, panels: int, strip_in: float, beside_in: float = 0.0, least_in: float = 0.0) -> Places:
    """Places for panels, with lines of failures above them.

    Beside each panel its labels are `beside_in` wide, and it is `least_in` high at least. Lengths are reckoned to the
    scale of the screen and enlarged at the end.
    """
    columns = math.ceil(math.sqrt(panels)) if panels < 5 else 3
    width, height = (4.4, 3.3) if panels == 1 else (2.9, 2.4)
    title, crowded = int(15 * (width + beside_in)), 1.0
    if medium.width_in is not None:
        room = medium.width_in / medium.scale
        columns = min(columns, max(1, int(room / (PANEL_IN + beside_in))))
        wide = max(room / columns - beside_in, 1.0)
        title, crowded = int(15 * (room / columns - 0.45)), max(2.9 / wide, 1.0)
        height *= min(max(wide / width, 0.7), 1.0)
    lines = math.ceil(panels / columns)
    tall = lines * (max(height, least_in) + strip_in) + 0.6
    size = (medium.width_in or columns * (width + beside_in), tall * medium.scale)
    return Places(columns, lines, title, crowded, size)
