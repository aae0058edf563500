"""speedups.md and speedups.tex: how many times as fast as one method, the baseline, all others are."""

from __future__ import annotations

import math
from collections.abc import Callable

from pandas import DataFrame

from harness.analysis.table import Analysis
from harness.record import plain
from harness.report import latex
from harness.text import escaped, significant

MEANING = """Times as fast: the median over processes of the ratio of the two times, paired by seed and round, with \
its 95 % interval"""


def markdown(found: DataFrame, analysis: Analysis, baseline: str) -> str:
    """speedups.md: all of them, with their intervals."""
    table = _texts(found, significant).map(escaped).to_markdown(index=False, disable_numparse=True)
    title = f"# Times as fast as {escaped(plain(baseline))}"
    return f"{title}\n\n{MEANING} ({intervals(found)}).\n\n{table}\n\n{escaped(analysis.environment)}.\n"


def tables(found: DataFrame, analysis: Analysis, baseline: str) -> str:
    """speedups.tex: the same, the best of each cell in bold."""
    best = found["speedup"] == found.groupby(["place", "params"])["speedup"].transform("max")
    title = f"Times as fast as {latex.tex(baseline)}, in bold the most of each $P$"
    caption = (
        f"{title}. {latex.tex(MEANING)} ({latex.tex(intervals(found))}): from, to. {latex.tex(analysis.environment)}."
    )
    listing = latex.listing(
        _texts(found, latex.digits),
        caption,
        f"tab:speedups{latex.problem(analysis)}",
        list(found.index[best]),
        "times as fast",
    )
    return latex.document([listing])


def _texts(found: DataFrame, written: Callable[[float], str]) -> DataFrame:
    texts = DataFrame(
        {"where": found["place"], "P": found["params"].map("{:.0f}".format), "method": found["label"].map(plain)}
    )
    for heading, column in (("times as fast", "speedup"), ("from", "low"), ("to", "high")):
        texts[heading] = [written(value) if math.isfinite(value) else "" for value in found[column]]
    return texts.assign(processes=found["processes"].map(str))


def intervals(found: DataFrame) -> str:
    """How the intervals of speed-ups were found."""
    return ", or ".join(sorted(set(found["by"])))
