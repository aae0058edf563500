r"""The report as table.tex: a longtable for each problem, quantity and setting, to \input as it is.

Each is as wide as the text (xltabular), and names that are too long go to the next line.
Numbers are cells of siunitx's S columns. Text is escaped here and not by pandas' Styler, which leaves as they are:
captions, `<`, `|` and `[` (an option, where it follows `\\`), and characters that pdflatex has no glyph for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain, count

import pandas
from pandas import DataFrame, Series
from pandas.io.formats.style import Styler

from harness.analysis.table import Analysis, differing, setting
from harness.record import plain
from harness.report import summary

PACKAGES = "array,booktabs,etoolbox,siunitx,xltabular"
HEAD = rf"""% Made by python -m harness.report. Its tables go where the page has one column, and need in the preamble:
%   \usepackage{{{PACKAGES}}}
"""
SETUP = r"""\begingroup
\scriptsize
\setlength{\tabcolsep}{3pt}
\setlength{\LTcapwidth}{\linewidth}
\robustify\bfseries
\sisetup{detect-weight,table-text-alignment=right}
"""
# Heading -> column, and how its number is written.
NUMBERS: dict[str, tuple[str, Callable[[float], str]]] = {
    "time (ms)": ("median_s", lambda seconds: digits(1e3 * seconds)),
    "from": ("low_s", lambda seconds: digits(1e3 * seconds)),
    "to": ("high_s", lambda seconds: digits(1e3 * seconds)),
    "gradients": ("gradients", lambda ratio: digits(ratio)),
    "peak (MiB)": ("tensor_peak_bytes", lambda size: digits(size / 2**20)),
    "error": ("relative_error", lambda error: f"{error:.1e}" if error else "0"),
}
# What the caption tells of a heading or of a word behind a row.
MEANINGS = {
    "from": "from, to: its 95\\,\\% interval over processes, below six their range",
    "gradients": "gradients: time over that of one gradient",
    "peak (MiB)": "peak: tensor memory above the start",
    "error": "error: Frobenius distance from the reference over its norm",
    "unsafe": "unsafe: wrong elsewhere under the same operators",
    "warned": "warned: torch warned that the result may be wrong",
    "contended": "contended: another process wanted the processor",
}
WORDS = summary.WORDS | {"error": "failed", "nonfinite": "not finite"}
NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
NONE = "{--}"  # in braces a cell of an S column is text
NAMES, NOTES = (rf">{{\raggedright\arraybackslash}}{width}" for width in ("X", "p{5em}"))  # X: what width is left
FEW = 5  # columns beside which notes have room for a line each
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


def tex(text: object) -> str:
    """Arbitrary text for LaTeX: on one line, no command, no ligature, no option; what is not ASCII as its escape."""
    return plain(text).encode("ascii", "backslashreplace").decode().translate(ESCAPES)


def _breakable(text: object) -> str:
    """The same, which may go to the next line behind what joins words."""
    return re.sub(r"(\\_|[=/])(?=\w)", r"\1\\allowbreak{}", tex(text))


def digits(number: float) -> str:
    """Three significant digits, zeros too, so that a column's points are below one another."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:#.3g}".rstrip(".")


def latex(analysis: Analysis) -> str:
    """A table for each problem, quantity and setting: the best time of each size in bold, failures in words."""
    rows = analysis.cells
    keys = ["family", "quantity", *differing(rows)]
    tables: dict[str, str] = {}  # by label
    for values, group in rows.groupby(keys, dropna=False):
        told = [*map(plain, values[:2]), *map(setting, keys[2:], values[2:])]
        name = f"tab:{slug(*told)}"
        label = next(label for label in chain([name], (f"{name}-{n}" for n in count(2))) if label not in tables)
        tables[label] = _table(group, _breakable(", ".join(told)), label, analysis.environment)
    return document(tables.values())


def document(tables: Iterable[str]) -> str:
    """What a paper can take in."""
    return HEAD + "".join(f"\n{SETUP}{table}\\endgroup\n" for table in tables)


def slug(*told: str) -> str:
    """Text as a part of a label."""
    return re.sub("[^a-z0-9]+", "-", " ".join(told).lower()).strip("-")


def problem(analysis: Analysis) -> str:
    """What ends the label of a table of all records: `-mlp`, their family of problems, where they have one."""
    families = analysis.rows["family"]
    return f"-{slug(families.iloc[0])}" if families.nunique() == 1 else ""


def _table(rows: DataFrame, title: str, label: str, environment: str) -> str:
    """One longtable; a rule parts the sizes where there are several."""
    rows = rows.sort_values(["params", "median_s", "label"], ignore_index=True)
    sizes = rows["params"].map(_count)
    one_size = sizes.nunique() == 1
    shown, columns = DataFrame(index=rows.index), []
    if not one_size:
        begins = sizes.ne(sizes.shift()) & (rows.index > 0)
        shown["$P$"] = sizes.mask(begins, r"\midrule " + sizes)
        columns.append("r")
    shown["method"] = rows["label"].map(_breakable)
    columns.append(NAMES)
    if rows["seed"].nunique() > 1:
        shown["seed"] = rows["seed"].map(_count)
        columns.append("r")
    several = rows["processes"] > 1
    for heading, (column, written) in NUMBERS.items():
        known = rows[column].map(math.isfinite) & (several | (heading not in ("from", "to")))
        if known.any():
            shown[heading] = rows.loc[known, column].map(written).reindex(rows.index, fill_value=NONE)
            columns.append(_column(shown.loc[known, heading]))
    notes = rows.apply(_note, axis=1)
    if notes.any():
        shown[""] = notes
        columns.append("l" if len(columns) <= FEW else NOTES)
    styler = shown.style.hide(axis="index")
    right = rows[(rows["status"] == "ok") & rows["median_s"].map(math.isfinite)]
    best = right.index[right["median_s"] == right["median_s"].groupby(sizes).transform("min")]
    if len(best):
        styler.set_properties(subset=(best, ["time (ms)"]), bfseries="")
    size = f", $P={sizes[0]}$" if one_size else ""
    bold = f"in bold the least that is right{'' if one_size else ' of each $P$'}"
    words = {*shown, *", ".join(notes).split(", ")}
    meanings = "; ".join(
        [
            f"Time: median of the calls after the first, {bold}",
            *(meaning for word, meaning in MEANINGS.items() if word in words),
        ]
    )
    caption = f"{title}{size}. {meanings}. {tex(environment)}."
    return _written(styler, columns, caption, label)


def listing(rows: DataFrame, caption: str, label: str, best: Sequence[Hashable] = (), column: str = "") -> str:
    """One longtable of arbitrary texts, which may be broken, and numbers; `best` are the rows whose `column` is bold.

    A column is of numbers if all that is in it are. A first column with one value is told in the caption instead; where
    the first has some values several times each is told once, and rules part them.
    """
    if rows.iloc[:, 0].nunique() == 1:
        caption, rows = f"{_breakable(rows.iloc[0, 0])}. {caption}", rows.iloc[:, 1:]
    shown, columns = DataFrame(index=rows.index), []
    for heading, values in rows.astype("str").items():
        known = values != ""
        if known.any() and values[known].str.fullmatch(NUMBER).all():
            shown["$P$" if heading == "P" else heading] = values.where(known, NONE)
            columns.append(_column(values[known]))
        else:
            shown[str(heading)] = values.map(_breakable)
            columns.append(NAMES)
    columns[0] = "r" if columns[0] != NAMES else NAMES  # xltabular begins with no S, where no rule may stand either
    again = rows.iloc[:, 0].eq(rows.iloc[:, 0].shift())
    if again.any():
        first = shown.iloc[:, 0].mask(again, "")
        shown.iloc[:, 0] = first.mask(~again & (rows.index > rows.index[0]), r"\midrule " + first)
    styler = shown.style.hide(axis="index")
    if len(best):
        styler.set_properties(subset=(list(best), [column]), bfseries="")
    return _written(styler, columns, caption, label)


def _written(styler: Styler, columns: Sequence[str], caption: str, label: str) -> str:
    table = styler.to_latex(
        environment="longtable", hrules=True, siunitx=True, column_format="".join(columns), caption=caption, label=label
    )
    table = table.replace(rf"\caption[]{{{caption}}}", r"\caption[]{continued}")
    table = table.replace(r"\begin{longtable}", r"\begin{xltabular}{\linewidth}")
    return table.replace(r"\end{longtable}", r"\end{xltabular}")


def _count(number: float) -> str:
    return "?" if pandas.isna(number) else f"{number:.0f}"


def _column(texts: Series) -> str:
    """The S column that these numbers fit: digits before and after the point, and of the exponent."""
    parts = texts.str.extract(r"^-?(\d+)\.?(\d*)(?:e[+-]0*(\d+))?$").fillna("").map(len).max()
    sign = "-" if texts.str.startswith("-").any() else ""
    return f"S[table-format={sign}{parts[0]}.{parts[1]}{f'e-{parts[2]}' if parts[2] else ''}]"


def _note(row: Series) -> str:
    """What is to be known of a row, in words; nothing where it is right and calm."""
    status = "" if row["status"] == "ok" else WORDS.get(row["status"], row["status"])
    marks = {"unsafe": pandas.notna(row["warning"]), "warned": row["doubted"], "contended": row["contended"]}
    return ", ".join(filter(None, [status, *(word for word, holds in marks.items() if holds)]))
