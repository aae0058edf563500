"""Error against cost: what estimates reach with the products and the time that they spend, beside exact methods."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pandas import DataFrame, Series

from harness.analysis.curves import Panel, panels
from harness.analysis.table import Analysis, options_of
from harness.record import plain
from harness.record.names import method_labels

# Options that say how much an estimate may spend. Records of one method that differ in nothing else make one line.
BUDGET = ("probes", "products", "most_products", "steps", "tolerance")
NO_ANSWER = ("ok", "unsupported")  # statuses without an error of the result that are no failure
DRAW = "seed"  # the option that says which random estimate of the same cost it is


@dataclass(frozen=True)
class Accuracy:
    """The methods of one quantity of one problem, by what they spend."""

    panel: Panel
    points: DataFrame  # see `_points`

    @property
    def title(self) -> str:
        """The problem with its P: `mlp, P = 517, trace, float64`."""
        return ", ".join([self.panel.family, f"P = {self.size:.0f}", self.panel.quantity, *self.panel.settings])

    @property
    def quantity(self) -> str:
        """Its name alone, without what was asked of it."""
        return self.panel.quantity.split(" ")[0]

    @property
    def size(self) -> float:
        """P."""
        return float(self.panel.cells["params"].iloc[0])


def accuracies(analysis: Analysis) -> list[Accuracy]:
    """One for each family, quantity, setting and P for which an estimate has a true error; in the order of `panels`."""
    rows = analysis.rows
    rows = rows[(rows["relative_error"].notna() | ~rows["status"].isin(NO_ANSWER)) & ~rows["approximation"].eq(True)]
    estimated = rows["relative_error"].notna() & ~rows["ranked"]
    if not estimated.any():
        return []
    rows = rows.assign(line=_lines(rows), budget=_budgets(rows), estimated=estimated)
    found = []
    for panel in panels(analysis):
        for _, cells in panel.cells.groupby("params"):
            own = rows[rows["cell"].isin(cells["cell"])]
            if own["estimated"].any():
                one_size = Panel(panel.family, panel.quantity, panel.settings, cells, "")
                found.append(Accuracy(one_size, _points(own)))
    return found


def _lines(rows: DataFrame) -> Series:
    """The label of each row's method among methods that spend as much as they like: without BUDGET and DRAW."""
    options = {text: _without(text) for text in rows["method_options"].dropna().unique()}
    return method_labels(rows.assign(method_options=rows["method_options"].map(options))).map(plain)


def _without(text: str) -> str:
    """A JSON object without the options of BUDGET and DRAW."""
    kept = {key: json.loads(value) for key, value in options_of(text).items() if key not in (*BUDGET, DRAW)}
    return json.dumps(kept, sort_keys=True)


def _budgets(rows: DataFrame) -> Series:
    """The options of BUDGET of each row, as text: `probes=64`."""
    told = {text: _budget(text) for text in rows["method_options"].dropna().unique()}
    return rows["method_options"].map(told).astype("object").fillna("")


def _budget(text: str) -> str:
    given = options_of(text)
    return ", ".join(f"{key}={plain(given[key])}" for key in BUDGET if given.get(key, "null") != "null")


def _points(rows: DataFrame) -> DataFrame:
    """A point for each method and budget of these rows, the exact ones last; of each method by its products.

    Columns: `line` (the method), `budget`, `exact`, `runs`, medians over the runs of `products`, `time_s`, `error`
    and `stated`, the ranges `error_low`, `error_high`, `time_low`, `time_high`, `inside` and `judged` (in how many runs
    the truth was within what the result states, of how many that say so), `status` (of the first run that is not ok)
    and `contended`. What is not known is NaN.
    """
    found = []
    for (line, budget), runs in rows.groupby(["line", "budget"], sort=True):
        judged = runs["covered"].dropna()
        found.append(
            {
                "line": line,
                "budget": budget,
                "exact": bool(runs["ranked"].all()),
                "runs": len(runs),
                "products": _known(runs["products"]).median(),
                "time_s": runs["median_s"].median(),
                "time_low": runs["median_s"].min(),
                "time_high": runs["median_s"].max(),
                "error": runs["relative_error"].median(),
                "error_low": runs["relative_error"].min(),
                "error_high": runs["relative_error"].max(),
                "stated": _stated(runs).median(),
                "inside": int(judged.astype(bool).sum()),
                "judged": len(judged),
                "status": next((status for status in runs["status"] if status != "ok"), "ok"),
                "contended": bool(runs["contended"].any()),
            }
        )
    return DataFrame(found).sort_values(["exact", "line", "products", "time_s"], kind="stable", ignore_index=True)


def _known(values: Series) -> Series:
    return values.astype("float")


def _stated(runs: DataFrame) -> Series:
    """What each run states of its error, else its standard error."""
    return _known(runs["stated_error"]).fillna(_known(runs["standard_error"]))
