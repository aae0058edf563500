"""Which method is right on which network: the outcome of every method on every problem."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pandas import DataFrame, Series

from harness.analysis.table import APPROXIMATE, SETTINGS, Analysis, differing, setting
from harness.record import plain

# Each outcome, and the statuses that it stands for.
OUTCOMES = {
    "right": ("ok",),
    "approximate": (APPROXIMATE,),
    "wrong": ("wrong",),
    "not finite": ("nonfinite",),
    "refuses": ("unsupported",),
    "fails": ("error", "oom", "timeout", "crashed"),
    "not for it": (),  # the method needs a network, and the problem is a function
    "not run": (),
}
WORST = (
    "wrong",
    "not finite",
    "fails",
    "refuses",
    "not for it",
    "approximate",
    "right",
)  # of several cells, the first of these counts
OUTCOME_OF = {status: outcome for outcome, statuses in OUTCOMES.items() for status in statuses}
NEEDS_A_NETWORK = "asks for model"


def outcomes(analysis: Analysis) -> DataFrame:
    """One row for each `network` and each `method`, run or not.

    `network` is the problem's name, `method` that of the method with the settings in which the records differ, and
    `kind` the module of test networks that the problem is from. `outcome`, `relative_error` and `message` are those of
    the worst cell, where a method has several on a network (of sizes, seeds).
    """
    cells = analysis.cells
    of_a_function = cells["message"].fillna("").str.contains(NEEDS_A_NETWORK, regex=False)
    found = DataFrame(
        {
            "network": networks_of(cells),
            "method": methods_of(cells),
            "kind": cells["problem_target"].fillna("").str.rsplit(".", n=1).str[0].str.rsplit(".", n=1).str[-1],
            "outcome": cells["status"].map(OUTCOME_OF).mask(of_a_function, "not for it"),
            "relative_error": cells["relative_error"],
            "message": cells["message"].fillna("").map(plain),
        }
    )
    found["rank"] = found["outcome"].map(WORST.index)
    found = found.sort_values(["rank", "relative_error"], ascending=[True, False], kind="stable")
    found = found.drop_duplicates(["kind", "network", "method"]).drop(columns="rank")
    every = found[["kind", "network"]].drop_duplicates().merge(found[["method"]].drop_duplicates(), how="cross")
    return every.merge(found, how="left").fillna({"outcome": "not run", "message": ""})


def networks_of(cells: DataFrame) -> Series:
    """The name of each cell's problem, without the folder of the test networks."""
    return cells["problem"].map(plain).str.removeprefix("zoo/")


def methods_of(cells: DataFrame, settings: Sequence[str] = tuple(SETTINGS)) -> Series:
    """The name of each cell's method, with the quantity and those of the settings in which the cells differ."""
    extra = [*(["quantity"] if cells["quantity"].nunique() > 1 else []), *differing(cells, settings)]
    settings_of = ([setting(name, value) for value in cells[name]] for name in extra)
    return Series(
        [plain(" ".join(parts)) for parts in zip(cells["label"], *settings_of, strict=True)], cells.index, "object"
    )


def totals(found: DataFrame) -> DataFrame:
    """How often each method has each outcome: a row an outcome, a column a method."""
    counts = found.pivot_table(index="outcome", columns="method", values="network", aggfunc="count", fill_value=0)
    return counts.reindex(index=[outcome for outcome in OUTCOMES if outcome in counts.index])[order(found)]


def order(found: DataFrame) -> list[str]:
    """The methods, those that are right most often first."""
    right = found["outcome"].eq("right").groupby(found["method"]).sum()
    return list(right.sort_values(ascending=False, kind="stable").index)


def cause(message: str) -> str:
    """What a message says before the advice, without its numbers, so that the same cause is the same text."""
    reason = message.split(" -> ")[0]
    return re.sub(r"\d+", "N", reason)[:110]
