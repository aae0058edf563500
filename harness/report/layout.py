"""A table of text on the terminal: numbers stay whole, names are folded to the width that is left."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pandas import DataFrame, Series
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2  # characters between two columns
LEAST = 8  # characters of a folded column; it is narrower where its texts are, and wider where its heading is


def widths(texts: DataFrame, folding: Collection[str], room: int) -> dict[str, int]:
    """Characters of each column so that all of them fit into `room`, if folding the columns of that name allows it.

    A folding column gets an equal share of what the other columns leave, and no more than it needs. Where folding does
    not suffice, nothing is folded.
    """
    columns = list(map(str, texts.columns))
    needed = {column: max(map(cell_len, [*_head(column).split("\n"), *texts[column]])) for column in columns}
    unfolded = dict(needed)
    left = room - GAP * (len(needed) - 1) - sum(width for column, width in needed.items() if column not in folding)
    folded = sorted((column for column in needed if column in folding), key=lambda column: needed[column])
    for place, column in enumerate(folded):
        share = left // (len(folded) - place)
        needed[column] = min(needed[column], max(share, LEAST, *map(cell_len, _head(column).split("\n"))))
        left -= needed[column]
    return needed if left >= 0 else unfolded


def print_table(
    console: Console,
    texts: DataFrame,
    widths: dict[str, int],
    numbers: Collection[str],
    style: Callable[[str, str], str] = lambda column, text: "",
    header: bool = True,
) -> None:
    """Print a table with the given widths; `style` is given a column and a text and returns the style of that text.

    A table that is wider than the console is printed in full.
    """
    width = sum(widths.values()) + GAP * (len(widths) - 1)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=header, width=width)
    columns = list(map(str, texts.columns))
    for column in columns:
        justify = "right" if column in numbers else "left"
        table.add_column(_head(column), justify=justify, width=widths[column], overflow="fold")
    for _, row in texts.iterrows():
        table.add_row(*(Text(row[column], style(column, row[column])) for column in columns))
    console.print(table, crop=False)


def print_sections(
    console: Console,
    texts: DataFrame,
    titles: Series,
    widths: dict[str, int],
    numbers: Collection[str],
    style: Callable[[str, str], str] = lambda column, text: "",
) -> None:
    """Print a table in sections, the rows of each title under it; the headings stand above the first section."""
    for place, (title, rows) in enumerate(texts.groupby(titles, sort=False)):
        console.print(Text(str(title), "bold"))
        print_table(console, rows, widths, numbers, style, header=place == 0)


def _head(column: str) -> str:
    """A heading, a word a line."""
    return column.replace(" ", "\n")
