r"""Tables as floats for pages of two columns, where no longtable can stand.

A table that is narrow enough is a `table` in one column; any other is a `table*` across both. It is no wider than its
text asks. One with too many lines for a page becomes several floats, which begin where its groups do. Notes stand below
the last: the captions of conference styles are short, and some set them in small capitals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from pandas import Series

from harness.report.latex.table import NAMES, NOTES, Table
from harness.report.latex.text import longest_piece, printed

COLUMN_PT = 241.0  # 8.5 cm: the column of acmart; IEEEtran's is 252pt wide
PAGE_PT = 506.0  # the text of acmart's page; IEEEtran's is 516pt wide
CHARACTER_PT = 3.9  # on average, in \scriptsize of Computer Modern; Times is narrower
GAP_PT = 5.0  # between two columns of a table: 2\tabcolsep
NOTES_PT = 40.0  # of a column NOTES
LINES = 45  # of a float
SETUP = r"""\scriptsize
\setlength{\tabcolsep}{2.5pt}
\robustify\bfseries
\sisetup{detect-weight,table-text-alignment=right,output-exponent-marker=\mathrm{e}}
"""
CONTINUED = r"{\centering\tablename~\thetable{} (continued)\par}\smallskip"


def floats(table: Table) -> list[str]:
    """The floats of one table."""
    narrow = _width_pt(table, _least_characters) <= COLUMN_PT
    page_pt = COLUMN_PT if narrow else PAGE_PT
    width_pt = min(_width_pt(table, _most_characters), page_pt)
    starts = _starts(_heights(table, width_pt), table.groups)
    bounds = pairwise([*starts, len(table.cells)])
    return [_float(table, begin, end, narrow, width_pt / page_pt) for begin, end in bounds]


def _float(table: Table, begin: int, end: int, narrow: bool, share: float) -> str:
    """One float of these rows, in this share of its width: the first has the caption, the last the notes."""
    environment = "table" if narrow else "table*"
    position = "!tbp" if narrow else "!tp"
    heading = CONTINUED if begin else f"\\caption{{{table.title}}}\n\\label{{{table.label}}}"
    width = rf"{share:.2f}\linewidth"
    styler = table.styled(begin, end).format_index(_stacked, axis="columns")
    body = styler.to_latex(hrules=True, siunitx=True, column_format="".join(table.columns))
    body = body.replace(r"\begin{tabular}", rf"\begin{{tabularx}}{{{width}}}")
    body = body.replace(r"\end{tabular}", r"\end{tabularx}")
    notes = f"\\par\\smallskip\\parbox{{{width}}}{{{table.notes}}}\n" if end == len(table.cells) else ""
    return f"\\begin{{{environment}}}[{position}]\n{heading}\n\\centering\n{SETUP}{body}{notes}\\end{{{environment}}}\n"


def _stacked(heading: object) -> str:
    """The heading, on two lines where it has several words."""
    *first, last = str(heading).rsplit(" ", 1)
    return rf"\shortstack[r]{{{first[0]}\strut\\{last}\strut}}" if first else last


def _width_pt(table: Table, characters_of_names: Callable[[Series], int]) -> float:
    """The width of a table whose columns of names are so many characters wide."""
    width = 0.0
    for texts, kind in _columns(table):
        characters = characters_of_names(texts) if kind == NAMES else _most_characters(texts)
        width += NOTES_PT if kind == NOTES else characters * CHARACTER_PT
    return width + GAP_PT * len(table.columns)


def _least_characters(texts: Series) -> int:
    """The width at which no name takes more than two lines and no part of a name sticks out."""
    return max(texts.map(longest_piece).max(), math.ceil(texts.map(printed).max() / 2))


def _most_characters(texts: Series) -> int:
    """The width at which every text and each line of the heading takes one line."""
    heading = str(texts.name).rsplit(" ", 1)
    return max(*map(printed, heading), texts.map(printed).max())


def _heights(table: Table, width_pt: float) -> Series:
    """The lines that each row takes in a table of this width, in which all columns of names are equally wide."""
    fixed_pt = _width_pt(table, lambda texts: 0)
    names_pt = (width_pt - fixed_pt) / max(list(table.columns).count(NAMES), 1)
    heights = Series(1, index=table.cells.index)
    for texts, kind in _columns(table):
        if kind in (NAMES, NOTES):
            lines = texts.map(printed) * CHARACTER_PT / (names_pt if kind == NAMES else NOTES_PT)
            heights = heights.clip(lower=lines.map(math.ceil))
    return heights.reset_index(drop=True)


def _columns(table: Table) -> list[tuple[Series, str]]:
    """Texts and type of each column."""
    return [(table.cells.iloc[:, place], kind) for place, kind in enumerate(table.columns)]


def _starts(heights: Series, groups: Series | None) -> list[int]:
    """The rows with which floats begin: those of a new group, but for groups that are higher than a float."""
    starts, filled = [0], 0
    for block in _blocks(heights, groups):
        if filled and filled + block.sum() > LINES:
            starts.append(int(block.index[0]))
            filled = 0
        filled += block.sum()
    return starts


def _blocks(heights: Series, groups: Series | None) -> list[Series]:
    """Rows that stay together: those of a group that fits into one float, else each row."""
    if groups is None:
        return [heights.iloc[[row]] for row in heights.index]
    blocks = []
    numbers = groups.ne(groups.shift()).cumsum().reset_index(drop=True)
    for _, block in heights.groupby(numbers):
        together = block.sum() <= LINES
        blocks += [block] if together else [block.iloc[[place]] for place in range(len(block))]
    return blocks
