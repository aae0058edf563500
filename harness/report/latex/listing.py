"""A table of arbitrary texts and numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from pandas import DataFrame

from harness.report.latex.table import NAMES, NONE, Table, number_column, repeated
from harness.report.latex.text import breakable

SHORT = 14  # characters of texts that need no second line
NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"


def listing(
    rows: DataFrame, title: str, notes: str, label: str, bold: Sequence[Hashable] = (), bold_column: str = ""
) -> Table:
    """A table of plain texts; `title` and `notes` are LaTeX text.

    A column holds numbers if all its texts are numbers. A first column with a single value goes into the title.
    """
    if rows.iloc[:, 0].nunique() == 1:
        title, rows = f"{title}: {breakable(rows.iloc[0, 0])}", rows.iloc[:, 1:]
    cells, columns = DataFrame(index=rows.index), []
    for heading, texts in rows.astype("str").items():
        known = texts != ""
        if known.any() and texts[known].str.fullmatch(NUMBER).all():
            cells["$P$" if heading == "P" else heading] = texts.where(known, NONE)
            columns.append(number_column(texts[known]))
        else:
            cells[str(heading)] = texts.map(breakable)
            short = NAMES in columns and texts.str.len().max() <= SHORT
            columns.append("l" if short else NAMES)
    if columns[0] != NAMES:
        columns[0] = "r"  # no rule may stand in an S column, and xltabular cannot begin with one
    return Table(cells, columns, title, notes, label, repeated(rows.iloc[:, 0]), bold, bold_column)
