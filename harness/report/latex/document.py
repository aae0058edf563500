"""A .tex file for \\input, in one of two layouts: tables that run over pages, or floats for pages of two columns."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.table import Analysis
from harness.report.latex.floats import floats
from harness.report.latex.table import NOTES, Table
from harness.report.latex.text import slug

PACKAGES = "array,booktabs,etoolbox,siunitx,xltabular"
TWO_COLUMN_PACKAGES = "array,booktabs,etoolbox,siunitx,tabularx"
WAITING = 30  # floats, after which LaTeX must place them: without text between, 52 are too many
FEW = 6  # columns: with no more, each note has room for one line
SETUP = r"""\begingroup
\scriptsize
\setlength{\tabcolsep}{3pt}
\setlength{\LTcapwidth}{\linewidth}
\robustify\bfseries
\sisetup{detect-weight,table-text-alignment=right}
"""


def document(tables: Sequence[Table], two_column: bool = False) -> str:
    """All tables as the text of one file, which begins with the packages that a paper needs for it."""
    return _two_column(tables) if two_column else _one_column(tables)


def family_label(analysis: Analysis) -> str:
    """The end of the label of a table of all records: `-mlp` where they are of one family of problems."""
    families = analysis.rows["family"]
    return f"-{slug(families.iloc[0])}" if families.nunique() == 1 else ""


def _one_column(tables: Sequence[Table]) -> str:
    head = _head("These tables are for pages of one column (for two: --two-column).", PACKAGES)
    return head + "".join(f"\n{SETUP}{_long(table)}\\endgroup\n" for table in tables)


def _two_column(tables: Sequence[Table]) -> str:
    written = [part for table in tables for part in floats(table)]
    head = _head("These floats are for pages of two columns, of 8.5 cm or more each.", TWO_COLUMN_PACKAGES)
    pages = [written[begin : begin + WAITING] for begin in range(0, len(written), WAITING)]
    return head + "\n\\clearpage\n".join("".join(f"\n{part}" for part in page) for page in pages)


def _head(purpose: str, packages: str) -> str:
    return f"""% Made by python -m harness.report. {purpose}
% They need in the preamble:
%   \\usepackage{{{packages}}}
"""


def _long(table: Table) -> str:
    """A longtable as wide as the text (xltabular), with the notes in its caption."""
    caption = f"{table.title}. {table.notes}"
    few = len(table.columns) <= FEW
    columns = ["l" if few and kind == NOTES else kind for kind in table.columns]
    text = table.styled().to_latex(
        environment="longtable",
        hrules=True,
        siunitx=True,
        column_format="".join(columns),
        caption=caption,
        label=table.label,
    )
    text = text.replace(rf"\caption[]{{{caption}}}", r"\caption[]{continued}")
    text = text.replace(r"\begin{longtable}", r"\begin{xltabular}{\linewidth}")
    return text.replace(r"\end{longtable}", r"\end{xltabular}")
