"""Tables of the benchmark cells: one for each family of problems, quantity and setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count, islice

import numpy
import pandas
from pandas import DataFrame, Series

from harness.analysis.table import Analysis, differing, setting
from harness.record import plain
from harness.report import summary
from harness.report.latex.table import NAMES, NONE, NOTES, Table, number_column, repeated
from harness.report.latex.text import breakable, digits, slug, tex
from harness.report.readable import MIB

# Heading -> column, and how its number is written.
NUMBERS: dict[str, tuple[str, Callable[[float], str]]] = {
    "time (ms)": ("median_s", lambda seconds: digits(1e3 * seconds)),
    "from": ("low_s", lambda seconds: digits(1e3 * seconds)),
    "to": ("high_s", lambda seconds: digits(1e3 * seconds)),
    "gradients": ("gradients", lambda ratio: digits(ratio)),
    "peak (MiB)": ("tensor_peak_bytes", lambda size: digits(size / MIB)),
    "error": ("relative_error", lambda error: f"{error:.1e}" if error else "0"),
}
# Columns of the cells of a table, beside those that make a table.
OF_A_TABLE = [
    "params",
    "label",
    "seed",
    "status",
    "warning",
    "doubted",
    "contended",
    "ranked",
    "runs",
    *(column for column, _ in NUMBERS.values()),
]
# What the notes of a table say of a heading, or of a word behind a row.
MEANINGS = {
    "from": "from, to: its 95\\,\\% interval over processes, below six their range",
    "gradients": "gradients: time over that of one gradient",
    "peak (MiB)": "peak: tensor memory above the start",
    "error": "error: Frobenius distance from the reference over its norm",
    "unsafe": "unsafe: wrong elsewhere under the same operators",
    "warned": "warned: torch warned that the result may be wrong",
    "contended": "contended: another process wanted the processor, or the GPU throttled",
}
MOST = 100  # tables
WORDS = summary.WORDS | {"error": "failed", "nonfinite": "not finite"}


def cell_tables(analysis: Analysis) -> list[Table]:
    """A table for each family, quantity and setting: the best time of each size in bold, failures in words.

    Of more than MOST, the notes of the last one say how many are left out.
    """
    keys = ["family", "quantity", *differing(analysis.cells)]
    cells = analysis.cells[[*keys, *OF_A_TABLE]]
    tables: dict[str, Table] = {}  # by label
    groups = cells.groupby(keys, dropna=False)
    for values, group in islice(groups, MOST):
        names = [*map(plain, values[:2]), *map(setting, keys[2:], values[2:])]
        label = _unused(f"tab:{slug(*names)}", tables)
        tables[label] = _table(group, breakable(", ".join(names)), label, analysis.environment)
    found = list(tables.values())
    if groups.ngroups > MOST:
        rest = f"{found[-1].notes} {groups.ngroups - MOST} tables more are left out: table.csv has their values."
        found[-1] = replace(found[-1], notes=rest)
    return found


def _unused(label: str, tables: dict[str, Table]) -> str:
    """The label, with a number behind it if a table has it already."""
    numbered = (f"{label}-{number}" for number in count(2))
    return next(name for name in chain([label], numbered) if name not in tables)


def _table(rows: DataFrame, name: str, label: str, environment: str) -> Table:
    """The table of these benchmark cells, sorted by P and time."""
    rows = rows.sort_values(["params", "median_s", "label"], ignore_index=True)
    sizes = rows["params"].map(_count)
    one_size = sizes.nunique() == 1
    columns: dict[str, tuple[Series, str]] = {}
    if not one_size:
        columns["$P$"] = (sizes, "r")
    columns["method"] = (rows["label"].map(breakable), NAMES)
    if rows["seed"].nunique() > 1:
        columns["seed"] = (rows["seed"].map(_count), "r")
    columns |= _measured(rows)
    notes = Series(list(map(_note, rows["status"], rows["warning"].notna(), rows["doubted"], rows["contended"])))
    if notes.any():
        columns[""] = (notes, NOTES)
    words = {*columns, *", ".join(notes).split(", ")}
    return Table(
        cells=DataFrame({heading: texts for heading, (texts, _) in columns.items()}),
        columns=[kind for _, kind in columns.values()],
        title=f"{name}, $P={sizes[0]}$" if one_size else name,
        notes=f"{_meanings(words, one_size)}. {tex(environment)}.",
        label=label,
        groups=None if one_size else repeated(sizes),
        bold=_fastest(rows, sizes),
        bold_column="time (ms)",
    )


def _measured(rows: DataFrame) -> dict[str, tuple[Series, str]]:
    """Texts and column type of each number that any row has; intervals only of several processes."""
    columns = {}
    for heading, (column, written) in NUMBERS.items():
        known = numpy.isfinite(rows[column].astype("float"))
        if heading in ("from", "to"):
            known &= rows["runs"] > 1
        if known.any():
            texts = rows.loc[known, column].map(written)
            columns[heading] = (texts.reindex(rows.index, fill_value=NONE), number_column(texts))
    return columns


def _fastest(rows: DataFrame, sizes: Series) -> list[int]:
    """The rows with the least time of each size that is right and ranked."""
    right = rows["median_s"][(rows["status"] == "ok") & rows["ranked"] & numpy.isfinite(rows["median_s"])]
    return list(right.index[right == right.groupby(sizes).transform("min")])


def _meanings(words: set[str], one_size: bool) -> str:
    """What the headings and words of a table mean."""
    of_each = "" if one_size else " of each $P$"
    time = (
        f"Time: median of the calls after the first, in bold the smallest median that is right{of_each}, decided or not"
    )
    return "; ".join([time, *(meaning for word, meaning in MEANINGS.items() if word in words)])


def _count(number: float) -> str:
    return "?" if pandas.isna(number) else f"{number:.0f}"


def _note(status: str, unsafe: bool, warned: bool, contended: bool) -> str:
    """What a reader must know of a row, in words; nothing where it is right and undisturbed."""
    word = "" if status == "ok" else WORDS.get(status, status)
    marks = {"unsafe": unsafe, "warned": warned, "contended": contended}
    return ", ".join(filter(None, [word, *(mark for mark, holds in marks.items() if holds)]))
