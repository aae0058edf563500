"""Measures against P: the panels of a figure, a point for each method and size, and what failed there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas
from pandas import DataFrame, Series

from harness.analysis.contests import WITH_A_RESULT
from harness.analysis.table import Analysis, differing, options_of, setting
from harness.record import plain


@dataclass(frozen=True)
class Panel:
    """The benchmark cells of known P of one family of problems, one quantity and one choice of settings."""

    family: str
    quantity: str
    settings: tuple[str, ...]  # those in which the records differ
    cells: DataFrame  # rows of `Analysis.cells`
    varying: str  # the problem's options that differ between its sizes: `width 6 to 106, batch 64 to 256`

    @property
    def title(self) -> str:
        """What tells the panel from others: `mlp, hessian, float32`."""
        return ", ".join([self.family, self.quantity, *self.settings])

    @property
    def dtype(self) -> str:
        """That of its cells; where they differ, of the first."""
        return str(self.cells["dtype"].iloc[0])

    @property
    def of_each_sample(self) -> bool:
        """Whether each sample has derivatives of its own, so that P counts the variables of all samples."""
        return bool(self.cells["per_sample"].eq(True).all())

    @property
    def sizes(self) -> int:
        """How many values P has."""
        return self.cells["params"].nunique()


def panels(analysis: Analysis) -> list[Panel]:
    """The panels in the order of their families, quantities and settings."""
    cells = analysis.cells[analysis.cells["params"].notna()]
    settings = differing(analysis.rows[analysis.rows["params"].notna()])
    found = []
    for (family, quantity, *values), group in cells.groupby(["family", "quantity", *settings], dropna=False):
        named = tuple(setting(key, value) for key, value in zip(settings, values, strict=True))
        found.append(Panel(plain(family), plain(quantity), named, group, _varying(group)))
    return found


def points(cells: DataFrame, column: str) -> DataFrame:
    """A point for each label and P: `label, params, value, low, high, status, contended`, by label and P.

    `value` is the median of the column over the cells of that label and P, NaN where nothing was measured; `low` and
    `high` are the interval of a time, NaN for another column. `status` is that of the first cell that is not ok.
    """
    timed = column == "median_s"
    place = ["label", "params"]
    groups = cells[[*place, "low_s", "high_s", "contended"]].assign(value=cells[column].astype("float")).groupby(place)
    failed = cells[cells["status"] != "ok"].groupby(place)["status"].first()
    found = DataFrame(
        {
            "value": groups["value"].median(),
            "low": groups["low_s"].min() if timed else math.nan,
            "high": groups["high_s"].max() if timed else math.nan,
        }
    )
    found["status"] = failed.reindex(found.index).astype("object").fillna("ok")
    found["contended"] = groups["contended"].any() if timed else False
    return found.reset_index().astype({"label": str, "low": float, "high": float, "contended": bool})


def failures(points: DataFrame) -> DataFrame:
    """The points that have no value, and those that have one although some process failed otherwise than in its result.

    What is measured but wrong is no failure: it is drawn and crossed. An approximation is none either.
    """
    failed = ~points["status"].isin(WITH_A_RESULT)
    return points[points["value"].isna() | failed]


def _varying(cells: DataFrame) -> str:
    """The problem's options in which cells differ, with their least and largest value; empty where only one differs."""
    texts = DataFrame([options_of(text) for text in cells["problem_options"].unique()]).fillna("null")
    differ = [key for key in texts.columns if texts[key].nunique() > 1]
    return ", ".join(f"{plain(key)} {_range(texts[key])}" for key in differ) if len(differ) > 1 else ""


def _range(values: Series) -> str:
    """`6 to 106` of numbers; other values one after the other."""
    numbers = pandas.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        return " / ".join(plain(value.strip('"')) for value in sorted(values.unique()))
    return f"{numbers.min():g} to {numbers.max():g}"
