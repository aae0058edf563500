"""Which method is right on which network: the outcome of every method on every problem."""

from __future__ import annotations

import re
from functools import partial

from pandas import DataFrame

from harness.analysis.table import Analysis, differing, setting
from harness.record import plain

# Each outcome, and the statuses that it stands for.
OUTCOMES = {
    "right": ("ok",),
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
    extra = [*(["quantity"] if cells["quantity"].nunique() > 1 else []), *differing(cells)]
    settings = [cells[name].map(partial(setting, name)) for name in extra]
    methods = [plain(" ".join(parts)) for parts in zip(cells["label"], *settings, strict=True)]
    of_a_function = cells["message"].fillna("").str.contains(NEEDS_A_NETWORK, regex=False)
    found = DataFrame(
        {
            "network": cells["problem"].map(plain).str.removeprefix("zoo/"),
            "method": methods,
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
