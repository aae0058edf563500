"""Numbers and names as text that people read: safe to show, with as many digits as mean something."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any

import pandas
from pandas import Series

from harness.record import plain

LISTED = 64  # characters of a list of names


def as_text(value: Any) -> str:
    """A name, or a number of whatever type, whole ones with all their digits; `?` where there is none."""
    if pandas.isna(value):
        return "?"
    if isinstance(value, float):  # numpy's too
        return f"{value:.0f}" if value.is_integer() else f"{value:.6f}".rstrip("0")
    return plain(value)


def counted(statuses: Series) -> str:
    """`3 timeout, 1 error`: how often each status is there."""
    return ", ".join(f"{count} {status}" for status, count in statuses.value_counts().items())


def duration(seconds: float) -> str:
    """Three digits and the unit that suits them: `41.2 ms`."""
    return _with_unit(seconds, significant)


def short_duration(seconds: float) -> str:
    """Two digits and the unit that suits them: `41 ms`."""
    return _with_unit(seconds, short)


def _with_unit(seconds: float, written: Callable[[float], str]) -> str:
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{written(seconds * scale)} {unit}"
    return f"{written(seconds)} s"


def short(number: float) -> str:
    """Two significant digits, or all digits before the point: `1.0`, `41`, `137`."""
    return f"{number:.0f}" if abs(number) >= 9.95 or number == 0 else f"{float(f'{number:.1e}'):#.2g}"


def significant(number: float) -> str:
    """Three significant digits, without an exponent from 0.001 on."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def rounded(size: float) -> str:
    """Two significant digits, below 100 whole, with thousands apart."""
    return f"{two_digits(size):,.0f}"


def two_digits(size: float) -> float:
    """The number that `rounded` writes."""
    return round(size) if size < 100 else round(size, 1 - int(math.log10(size)))


def percent(error: float) -> str:
    """A relative error in percent from a tenth of one to a thousand, else as a power of ten."""
    if pandas.isna(error):
        return "?"
    if not 1e-3 <= error < 10:
        return f"{error:.0e}"
    return f"{100 * error:.0f}%" if error >= 0.095 else f"{100 * error:.2g}%"


def listed(names: Collection[str]) -> str:
    """Names as far as they fit, and how many more there are."""
    shown: list[str] = []
    for name in sorted(names):
        if shown and len(", ".join([*shown, name])) > LISTED:
            return f"{', '.join(shown)} and {len(names) - len(shown)} more"
        shown.append(name)
    return ", ".join(shown)


def escaped(text: str) -> str:
    """Text of one line as GitHub's Markdown shows it in a table: no markup, entity or formula, nobody is mentioned.

    A character of no width parts what GitHub would link after rendering: `@name` and `#12`.
    """
    marked = re.sub(r"([\\`*<|\[\]~$&#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    return re.sub(r"([@#])(?=\w)", r"\1&#8203;", marked)
