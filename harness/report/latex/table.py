"""A table whose cells are LaTeX text, for any layout of the page."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pandas import DataFrame, Series
from pandas.io.formats.style import Styler

NUMBER = re.compile(r"-?(\d+)\.?(\d*)(?:e[+-]0*(\d+))?$")  # its digits before and after the point, its exponent's
NONE = "{--}"  # an S column takes what is in braces as text
NAMES = r">{\raggedright\arraybackslash}X"  # as wide as the other columns allow
NOTES = r">{\raggedright\arraybackslash}p{5em}"


@dataclass(frozen=True)
class Table:
    """What a table says."""

    cells: DataFrame  # LaTeX text; the headings are LaTeX text too
    columns: Sequence[str]  # LaTeX column types, one for each heading
    title: str
    notes: str  # sentences that explain headings and tell the environment
    label: str
    groups: Series | None = None  # the group of each row, which the first column names; None where it names none
    bold: Sequence[Hashable] = ()  # rows in which `bold_column` is bold
    bold_column: str = ""

    def styled(self, begin: int = 0, end: int | None = None) -> Styler:
        """These rows for `to_latex`: a group is named once, a rule stands between two groups, the best are bold."""
        cells = self.cells.iloc[begin:end].copy()
        if self.groups is not None:
            groups = self.groups.iloc[begin:end]
            again = groups.eq(groups.shift())
            names = cells.iloc[:, 0].mask(again, "")
            ruled = ~again & (cells.index != cells.index[0])
            cells[cells.columns[0]] = names.mask(ruled, r"\midrule " + names)
        styler = cells.style.hide(axis="index")
        bold = cells.index.intersection(list(self.bold))
        return styler.set_properties(subset=(bold, [self.bold_column]), bfseries="") if len(bold) else styler


def number_column(texts: Series) -> str:
    """The S column that fits these numbers: digits before and after the point, and of the exponent."""
    found = [NUMBER.match(text) for text in texts]
    whole, fraction, exponent = (max((len(part[at] or "") for part in found if part), default=0) for at in (1, 2, 3))
    sign = "-" if any(text.startswith("-") for text in texts) else ""
    return f"S[table-format={sign}{whole}.{fraction}{f'e-{exponent}' if exponent else ''}]"


def repeated(groups: Series) -> Series | None:
    """The groups where any has several rows, else None: then each row names its own."""
    return groups if groups.eq(groups.shift()).any() else None
