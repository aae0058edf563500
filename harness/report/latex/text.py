r"""Names and numbers as LaTeX text.

pandas' Styler escapes neither captions nor `<`, `|`, `[` (an option where it follows `\\`) and characters that pdflatex
has no glyph for. So every text is escaped here.
"""

from __future__ import annotations

import math
import re

from harness.record import plain

ESCAPES = str.maketrans(
    {character: rf"\{character}" for character in "_&%$#{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "{''}",
        "'": "{'}",
        "`": r"\textasciigrave{}",
        "-": "{-}",
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
    }
)
LONG = 20  # characters of a word, after which a line may end inside it
BREAK = "\n"  # in a text of one line, a place where a line may end
BREAKABLE = re.compile(rf"[_=/](?=\w)|[^\s_=/]{{{LONG}}}(?=[^\s_=/])")


def tex(text: object) -> str:
    """Arbitrary text for LaTeX: one line of ASCII without commands, ligatures or options."""
    return _ascii(text).translate(ESCAPES)


def breakable(text: object) -> str:
    """The same text, in which a line may end behind `_`, `=` and `/`, and after LONG characters of a word."""
    marked = BREAKABLE.sub(rf"\g<0>{BREAK}", _ascii(text))
    return marked.translate(ESCAPES | {ord(BREAK): r"\allowbreak{}"})


def printed(text: str) -> int:
    """The number of characters that LaTeX prints of a text that `tex` or `breakable` wrote."""
    unbroken = text.replace(r"\allowbreak{}", "")
    return len(re.sub(r"\\text[a-z]+\{\}|\\.|\{.+?\}", "x", unbroken))


def longest_piece(text: str) -> int:
    """The number of characters of the longest part in which no line may end."""
    return max(map(printed, re.split(r"\\allowbreak\{\}| ", text)))


def digits(number: float) -> str:
    """Three significant digits, zeros too, so that a column's decimal points are below one another."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:#.3g}".rstrip(".")


def whole(number: float) -> str:
    """A whole number; nothing for NaN and infinity."""
    return f"{number:.0f}" if math.isfinite(number) else ""


def slug(*words: str) -> str:
    """Text as a part of a label."""
    return re.sub("[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def _ascii(text: object) -> str:
    return plain(text).encode("ascii", "backslashreplace").decode()
