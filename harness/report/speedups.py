"""speedups.md and speedups.tex: how many times as fast as one method, the baseline, all others are."""

from __future__ import annotations

import math
from collections.abc import Callable

from pandas import DataFrame, Series

from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.latex.document import family_label
from harness.report.latex.listing import listing
from harness.report.latex.table import Table
from harness.report.latex.text import digits, tex
from harness.text import escaped, significant

MEDIAN = """Times as fast: the median over processes of the ratio of the baseline's time to the method's, paired by \
seed, round and node, with its 95 % interval"""
ONE_BY_ONE = "Each interval is of one ratio alone: of those of equally fast methods, 5 % are expected to leave out 1"


def markdown(found: DataFrame, analysis: Analysis, baseline: str) -> str:
    """speedups.md: all of them, with their intervals."""
    table = _texts(found, significant).map(escaped).to_markdown(index=False, disable_numparse=True)
    title = f"# Times as fast as {escaped(plain(baseline))}"
    return f"{title}\n\n{meaning(found)}.\n\n{table}\n\n{escaped(analysis.environment)}.\n"


def speedup_table(found: DataFrame, analysis: Analysis, baseline: str) -> Table:
    """The same for LaTeX, the best of each problem and P in bold."""
    best = found["speedup"] == found.groupby(["problem", "params"])["speedup"].transform("max")
    notes = (
        f"From, to: the interval. In bold: the largest median of each $P$, decided or not. {tex(analysis.environment)}."
    )
    return listing(
        _texts(found, digits),
        title=f"Times as fast as {tex(baseline)}",
        notes=f"{tex(meaning(found))}. {notes}",
        label=f"tab:speedups{family_label(analysis)}",
        bold=list(found.index[best]),
        bold_column="times as fast",
    )


def meaning(found: DataFrame) -> str:
    """What the numbers are, and how the intervals of these speed-ups were found."""
    return f"{MEDIAN} ({', or '.join(sorted(set(found['by'])))}). {ONE_BY_ONE}"


def _texts(found: DataFrame, written: Callable[[float], str]) -> DataFrame:
    """The speed-ups as texts; `written` makes one of a number."""

    def numbers(column: str) -> Series:
        return Series([written(value) if math.isfinite(value) else "" for value in found[column]], found.index)

    return DataFrame(
        {
            "problem": found["problem"],
            "P": found["params"].map("{:.0f}".format),
            "method": found["label"].map(plain),
            "times as fast": numbers("speedup"),
            "from": numbers("low"),
            "to": numbers("high"),
            "rounds": found["processes"].map(str),
        }
    )
