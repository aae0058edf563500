r"""Tables as floats for pages of two columns, where no longtable can stand.

A table that is narrow enough is a `table` in one column; any other is a `table*` across both. One with too many lines
for a page becomes several floats, which begin where its groups do. Notes stand below the last: the captions of
conference styles are short, and some set them in small capitals.
"""

from __future__ import annotations

import math
from itertools import pairwise

from pandas import Series

from harness.report.latex.table import NAMES, NOTES, Table
from harness.report.latex.text import longest_piece, printed

COLUMN_PT = 240.0  # IEEEtran's columns are 252pt wide, acmart's 241pt
PAGE_PT = 500.0  # both with what is between them: 516pt and 506pt
CHARACTER_PT = 3.7  # on average, in \scriptsize
GAP_PT = 6.0  # between two columns of a table
NOTES_PT = 40.0  # of a column NOTES
LINES = 45  # of a float
SETUP = r"""\scriptsize
\setlength{\tabcolsep}{3pt}
\robustify\bfseries
\sisetup{detect-weight,table-text-alignment=right}
"""
CONTINUED = r"{\centering\tablename~\thetable{} (continued)\par}\smallskip"


def floats(table: Table) -> list[str]:
    """The floats of one table."""
    narrow = _least_pt(table) <= COLUMN_PT
    names_pt = _names_pt(table, COLUMN_PT if narrow else PAGE_PT)
    starts = _starts(_heights(table, names_pt), table.groups)
    bounds = list(pairwise([*starts, len(table.cells)]))
    return [_float(table, begin, end, narrow) for begin, end in bounds]


def _float(table: Table, begin: int, end: int, narrow: bool) -> str:
    """One float of these rows: the first has the caption, the last the notes."""
    environment = "table" if narrow else "table*"
    position = "!tbp" if narrow else "!tp"
    heading = CONTINUED if begin else f"\\caption{{{table.title}}}\n\\label{{{table.label}}}"
    body = table.styled(begin, end).to_latex(hrules=True, siunitx=True, column_format=table.column_format)
    body = body.replace(r"\begin{tabular}", r"\begin{tabularx}{\linewidth}")
    body = body.replace(r"\end{tabular}", r"\end{tabularx}")
    notes = f"\\par\\smallskip {table.notes}\n" if end == len(table.cells) else ""
    return f"\\begin{{{environment}}}[{position}]\n{heading}\n{SETUP}{body}{notes}\\end{{{environment}}}\n"


def _least_pt(table: Table) -> float:
    """The width at which no name takes more than two lines and no part of a name sticks out."""
    width = _fixed_pt(table)
    for texts, kind in _columns(table):
        if kind == NAMES:
            characters = max(texts.map(longest_piece).max(), math.ceil(texts.map(printed).max() / 2))
            width += characters * CHARACTER_PT
    return width


def _names_pt(table: Table, page_pt: float) -> float:
    """The width of each column of names in a table as wide as the page or its column."""
    count = list(table.columns).count(NAMES)
    return (page_pt - _fixed_pt(table)) / count if count else math.inf


def _fixed_pt(table: Table) -> float:
    """The width of all columns other than those of names, and of the gaps."""
    width = GAP_PT * len(table.columns)
    for texts, kind in _columns(table):
        if kind == NOTES:
            width += NOTES_PT
        elif kind != NAMES:
            width += CHARACTER_PT * max(printed(str(texts.name)), texts.map(printed).max())
    return width


def _heights(table: Table, names_pt: float) -> Series:
    """The lines that each row takes."""
    heights = Series(1, index=table.cells.index)
    for texts, kind in _columns(table):
        if kind in (NAMES, NOTES):
            width = names_pt if kind == NAMES else NOTES_PT
            lines = (texts.map(printed) * CHARACTER_PT / width).map(math.ceil)
            heights = heights.where(heights >= lines, lines)
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
