"""coverage.md: which method is right on which network, and why methods refuse or fail."""

from __future__ import annotations

from pandas import DataFrame, Series

from harness.analysis.coverage import cause, order, outcomes, totals
from harness.analysis.table import Analysis
from harness.text import escaped, listed, percent

MARKS = {
    "right": "",
    "approximate": "~",
    "not finite": "NaN",
    "refuses": "no",
    "fails": "!",
    "not for it": "-",
    "not run": "(none)",
}


def markdown(analysis: Analysis) -> str:
    """A line for each network, a column for each method, totals, and why methods refuse or fail."""
    found = outcomes(analysis)
    found["text"] = list(map(_mark, found["outcome"], found["relative_error"]))
    table = found.pivot(index=["kind", "network"], columns="method", values="text")
    table = table[order(found)].reset_index(level="kind", drop=True)
    failing = found[found["outcome"].isin(["refuses", "fails"])].copy()
    failing["cause"] = failing["message"].map(cause)
    causes = failing.groupby(["method", "cause"], sort=False)["network"].agg(["count", _names]).reset_index()
    causes = causes.sort_values(["method", "count"], ascending=[True, False])
    causes.columns = ["method", "cause", "networks", "which"]
    return f"""# Which method is right on which network

A blank: right. ~: approximate by design. A number: wrong, with its relative error. NaN: not finite. no: refuses.
!: fails. -: needs a network. (none): not run.

{_markdown(totals(found))}

{_markdown(table)}

{escaped(analysis.environment)}.

## Why they refuse or fail

{causes.map(str).map(escaped).to_markdown(index=False, disable_numparse=True)}
"""


def _markdown(table: DataFrame) -> str:
    """A table whose lines and columns have names out of records."""
    return table.rename(index=escaped, columns=escaped).to_markdown(disable_numparse=True)


def _mark(outcome: str, relative_error: float) -> str:
    return f"**{percent(relative_error)}**" if outcome == "wrong" else MARKS[outcome]


def _names(networks: Series) -> str:
    return listed(list(networks))
