"""accuracy.md and accuracy.tex: what estimates reach with what they spend, and how honest their errors are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pandas import DataFrame, Series

from harness.analysis.accuracy import Accuracy
from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.latex.document import family_label
from harness.report.latex.listing import listing
from harness.report.latex.table import Table
from harness.report.latex.text import tex
from harness.text import duration, escaped, listed

NONE = "-"
MEANING = (
    "A line is of the runs (seeds, rounds) of one method with one budget. products: Hessian-vector products that a run "
    "spent; time, true error, stated error: medians over the runs, errors over the true norm; within: in how many runs "
    "the truth lay within what the result states, a random estimate's 95 % interval or another one's bound. Exact "
    "methods state no error and come last"
)


def markdown(found: Sequence[Accuracy], analysis: Analysis) -> str:
    """A table for each problem, quantity, setting and P."""
    parts = ["# Accuracy of estimates", f"{escaped(MEANING)}."]
    for accuracy in found:
        table = _texts(accuracy).map(escaped).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## {escaped(accuracy.title)}\n\n{table}")
    return "\n\n".join([*parts, f"{escaped(analysis.environment)}.\n"])


def tables(found: Sequence[Accuracy], analysis: Analysis) -> list[Table]:
    """The same as a LaTeX table each."""
    notes = f"{tex(MEANING)}. {tex(analysis.environment)}."
    label = f"tab:accuracy{family_label(analysis)}"
    return [
        listing(_texts(accuracy), tex(f"Accuracy of estimates: {accuracy.title}"), notes, f"{label}-{place}")
        for place, accuracy in enumerate(found, start=1)
    ]


def unranked(analysis: Analysis) -> str | None:
    """Which methods no leaderboard ranks, in a sentence; None where all are ranked."""
    names = set(analysis.rows.loc[~analysis.rows["ranked"], "method"].dropna().map(plain))
    return f"Not ranked by time, since they estimate: {listed(names)}." if names else None


def _texts(accuracy: Accuracy) -> DataFrame:
    points = accuracy.points
    return DataFrame(
        {
            "method": points["line"],
            "budget": points["budget"].replace("", NONE),
            "products": _written(points["products"], "{:.0f}".format),
            "time": _written(points["time_s"], duration),
            "true error": _written(points["error"], _error),
            "stated error": _written(points["stated"], _error),
            "within": list(map(_within, points["inside"], points["judged"])),
            "status": points["status"],
        }
    )


def _written(values: Series, written: Callable[[float], str]) -> list[str]:
    return [NONE if math.isnan(value) else written(value) for value in values]


def _error(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _within(inside: int, judged: int) -> str:
    return f"{inside} of {judged}" if judged else NONE
