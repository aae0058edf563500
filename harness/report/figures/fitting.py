"""Text that fits: its width as it is drawn, broken into lines or cut where it is too wide."""

from __future__ import annotations

import re

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from harness.report.figures.style import FONT

ELLIPSIS = "…"
HINTED = 1.04  # letters on a screen's whole pixels are up to so much wider than on paper
PIECE = re.compile(r"[^_ .=/-]*[_ .=/-]|[^_ .=/-]+")  # a name breaks behind these characters


def width_pt(text: str, size_pt: float, bold: bool = False) -> float:
    """How wide one line of text is on paper, in points."""
    font = FontProperties(family=FONT, size=size_pt, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def room_pt(text: str, size_pt: float, bold: bool = False) -> float:
    """How wide one line of text is at most, on paper or on a screen, in points."""
    return HINTED * width_pt(text, size_pt, bold)


def cut(text: str, room: float, size_pt: float, bold: bool = False) -> str:
    """As much of a line as fits into the room, with an ellipsis for the rest."""
    if room_pt(text, size_pt, bold) <= room:
        return text
    while text and room_pt(text + ELLIPSIS, size_pt, bold) > room:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def shortened(name: str, room: float, size_pt: float) -> str:
    """A name with an ellipsis in its middle where it is wider than the room: names often differ at their ends."""
    if room_pt(name, size_pt) <= room:
        return name
    kept = len(name) - 1
    while kept > 1 and room_pt(_ends(name, kept), size_pt) > room:
        kept -= 1
    return _ends(name, kept)


def lines(text: str, room: float, size_pt: float, most: int, bold: bool = False) -> list[str]:
    """The text in lines that fit into the room, broken behind `_`, a space and the like; the last of `most` is cut."""
    found = [""]
    for piece in _pieces(text, room, size_pt, bold):
        fits = room_pt((found[-1] + piece).rstrip(), size_pt, bold) <= room
        if fits or not found[-1] or len(found) == most:
            found[-1] += piece
        else:
            found.append(piece)
    return [cut(line.strip(), room, size_pt, bold) for line in found]


def _ends(name: str, kept: int) -> str:
    """The first and the last characters of a name, so many in all."""
    last = kept // 2
    return name[: kept - last] + ELLIPSIS + name[len(name) - last :]


def _pieces(text: str, room: float, size_pt: float, bold: bool) -> list[str]:
    """Where the text may break: behind a separator, and anywhere in what is wider than the room."""
    found = []
    for piece in PIECE.findall(text):
        fits = room_pt(piece, size_pt, bold) <= room
        found += [piece] if fits else list(piece)
    return found
