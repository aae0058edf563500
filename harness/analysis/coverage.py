"""Which way is right on what: every method against every problem, as tables."""

from __future__ import annotations

import re

import pandas
from pandas import DataFrame, Series

from harness.analysis.table import differing, environment, escaped, over_processes, plain, prepared, setting

# Verdict, its colour, and the statuses that it stands for.
VERDICTS = {
    "right": ("#b7d7ea", ("ok",)),
    "wrong": ("#d55e00", ("wrong",)),
    "not finite": ("#e69f00", ("nonfinite",)),
    "refuses": ("#d9d9d9", ("unsupported",)),
    "fails": ("#8c6bb1", ("error", "oom", "timeout", "crashed")),
    "not for it": ("#ffffff", ()),
    "not run": ("#f5f2dc", ()),
}
WORST = ("wrong", "not finite", "fails", "refuses", "not for it", "right")  # of a case's several rows, this one counts
VERDICT_OF = {status: verdict for verdict, (_, statuses) in VERDICTS.items() for status in statuses}
NEEDS_A_NETWORK = "asks for model"
SHOWN = 64  # characters of the names of cases in a line of the picture


def verdicts(frame: DataFrame) -> DataFrame:
    """One row for each `case` and each `way` (the method, and the settings in which rows differ), run or not.

    `verdict`, `relative_error` and `message` are of the case's worst cell, where it has several (of sizes, seeds).
    """
    rows = over_processes(prepared(frame))
    extra = [*(["quantity"] if rows["quantity"].nunique() > 1 else []), *differing(rows)]
    told = rows.apply(lambda row: " ".join([row["label"], *(setting(name, row[name]) for name in extra)]), axis=1)
    verdict = rows["status"].map(VERDICT_OF)
    of_a_function = rows["message"].fillna("").str.contains(NEEDS_A_NETWORK, regex=False)
    cells = DataFrame(
        {
            "case": rows["problem"].map(plain).str.removeprefix("zoo/"),
            "way": told.map(plain),
            "kind": rows["problem_target"].fillna("").str.rsplit(".", n=1).str[0].str.rsplit(".", n=1).str[-1],
            "verdict": verdict.mask(of_a_function, "not for it"),
            "relative_error": rows["relative_error"],
            "message": rows["message"].fillna("").map(plain),
        }
    )
    cells["rank"] = cells["verdict"].map(WORST.index)
    cells = cells.sort_values(["rank", "relative_error"], ascending=[True, False], kind="stable")
    cells = cells.drop_duplicates(["kind", "case", "way"]).drop(columns="rank")
    every = cells[["kind", "case"]].drop_duplicates().merge(cells[["way"]].drop_duplicates(), how="cross")
    return every.merge(cells, how="left").fillna({"verdict": "not run", "message": ""})


def table(frame: DataFrame) -> str:
    """Markdown: a line a case, a column a way, totals, and why ways refuse or fail."""
    cells = verdicts(frame)
    cells["text"] = cells.apply(_text, axis=1)
    wide = cells.pivot(index=["kind", "case"], columns="way", values="text")
    wide = wide[order(cells)].reset_index(level="kind", drop=True)
    causes = cells[cells["verdict"].isin(["refuses", "fails"])].copy()
    causes["cause"] = causes["message"].map(cause)
    counted = causes.groupby(["way", "cause"], sort=False)["case"].agg(["count", _named]).reset_index()
    counted = counted.sort_values(["way", "count"], ascending=[True, False])
    counted.columns = ["way", "cause", "cases", "which"]
    return f"""# Which way is right on what

A blank: right. A number: wrong, with its relative error. NaN: not finite. no: refuses. !: fails. -: needs a network.
(none): not run.

{_markdown(totals(cells))}

{_markdown(wide)}

{escaped(environment(prepared(frame)))}.

## Why they refuse or fail

{counted.map(str).map(escaped).to_markdown(index=False, disable_numparse=True)}
"""


def _markdown(table: DataFrame) -> str:
    """A table whose lines and columns have names out of records."""
    return table.rename(index=escaped, columns=escaped).to_markdown(disable_numparse=True)


def totals(cells: DataFrame) -> DataFrame:
    """How often each way has each verdict."""
    counted = cells.pivot_table(index="verdict", columns="way", values="case", aggfunc="count", fill_value=0)
    return counted.reindex(index=[verdict for verdict in VERDICTS if verdict in counted.index])[order(cells)]


def order(cells: DataFrame) -> list[str]:
    """The ways, those that are right most often first."""
    right = cells["verdict"].eq("right").groupby(cells["way"]).sum()
    return list(right.sort_values(ascending=False, kind="stable").index)


def _text(cell: Series) -> str:
    if cell["verdict"] == "wrong":
        return f"**{percent(cell['relative_error'])}**"
    return {"right": "", "not finite": "NaN", "refuses": "no", "fails": "!", "not for it": "-", "not run": "(none)"}[
        cell["verdict"]
    ]


def percent(error: float) -> str:
    """A relative error in percent from a tenth of one to a thousand, else as a power of ten."""
    if pandas.isna(error):
        return "?"
    if not 1e-3 <= error < 10:
        return f"{error:.0e}"
    return f"{100 * error:.0f}%" if error >= 0.095 else f"{100 * error:.2g}%"


def cause(message: str) -> str:
    """What a message says before the advice, without its numbers, so that the same cause is the same text."""
    said = message.split(" -> ")[0]
    return re.sub(r"\d+", "N", said)[:110]


def _named(cases: Series) -> str:
    return listed(list(cases))


def listed(cases: list[str]) -> str:
    """Names as far as they fit, and how many more there are."""
    shown: list[str] = []
    for case in sorted(cases):
        if shown and len(", ".join([*shown, case])) > SHOWN:
            return f"{', '.join(shown)} and {len(cases) - len(shown)} more"
        shown.append(case)
    return ", ".join(shown)
