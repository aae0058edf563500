"""The history of each cell: what every night's run saw of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pandas
from pandas import DataFrame, Series

from harness.analysis.intervals import interval
from harness.analysis.table import APPROXIMATE, CELL, Analysis, setting
from harness.record import COUNTERS, SIDES, plain
from harness.record.identity import ENVIRONMENT, METHOD, PROBLEM

FEWEST = 5  # nights of one cell from which on there is a history to show
IDENTITY = [column for column in CELL if column not in ENVIRONMENT]


@dataclass(frozen=True)
class History:
    """One cell over the nights.

    `nights` has a row a night and machine, oldest first: night (its name), date, commit, dirty, ENVIRONMENT, status,
    contended, time_s with low_s and high_s (median over processes and its interval), COUNTERS. What was not measured,
    or on which the processes of a night do not agree, is null.
    """

    cell: str
    nights: DataFrame

    def of(self, column: str) -> DataFrame:
        """The nights in which a column is known."""
        return self.nights[self.nights[column].notna()]


def histories(analysis: Analysis) -> list[History]:
    """The cells that two nights or more have, none if no cell has FEWEST nights.

    A night is a run folder, and where it has two sides its candidate: the baseline is other code, run for comparison.
    Of a baseline file it is the records of one commit and day (UTC). Nights without a date are left out. A failure that
    does not know its environment is taken to have had that of its night, or of the night before.
    """
    rows = _recurring(analysis).sort_values(["date", "night", "started"], kind="stable")
    named = (*PROBLEM, *METHOD, "quantity")
    telling = [column for column in IDENTITY if column not in named and rows[column].nunique(dropna=False) > 1]
    return [_history(group, telling) for _, group in rows.groupby(IDENTITY, dropna=False)]


def kept(analysis: Analysis) -> DataFrame:
    """The records, in their order, that `histories` are made of."""
    return analysis.frame.iloc[sorted(_recurring(analysis).index)]


def successive(nights: DataFrame) -> Iterator[tuple[Series, Series]]:
    """Each night with the one before it on the same machine; on a machine's first night, with the latest on any."""
    latest: dict[str, Series] = {}
    before = None
    for _, night in nights.iterrows():
        known = latest.get(str(night["machine"]), before)
        if known is not None:
            yield known, night
        latest[str(night["machine"])] = before = night


def changes(before: Series, after: Series) -> list[str]:
    """What of the environment changed between two nights: `torch 2.12.0 to 2.13.0`."""
    return [
        f"{name} {plain(before[name])} to {plain(after[name])}"
        for name in ENVIRONMENT
        if pandas.notna(before[name]) and pandas.notna(after[name]) and before[name] != after[name]
    ]


@lru_cache(maxsize=1)
def _recurring(analysis: Analysis) -> DataFrame:
    """The dated rows of cells that two nights or more have; none if no cell has FEWEST."""
    rows = _dated(analysis.rows)
    nights = rows.groupby(IDENTITY, dropna=False)["night"].transform("nunique")
    return rows[(nights > 1) & bool(nights.max() >= FEWEST)]


def _dated(rows: DataFrame) -> DataFrame:
    """The rows with their `night` and its `date`, which is that of its first record; no row knows less than its night.

    A run folder holds <cell>/record.json, or that in each of SIDES; a line of a baseline file is FILE.jsonl:NUMBER.
    """
    places = DataFrame([_place(str(path)) for path in rows["path"]], index=rows.index, columns=["run", "side"])
    judged = places["run"].isin(places.loc[places["side"] == "candidate", "run"])
    rows = rows[(places["side"] != "baseline") | ~judged].copy()
    in_folder = places.loc[rows.index, "run"].notna()
    started = pandas.to_datetime(rows["started"], format="ISO8601", utc=True, errors="coerce")
    of_file = rows["path"].str.rpartition(":")[0] + " " + started.dt.strftime("%Y-%m-%d")
    rows["night"] = places.loc[rows.index, "run"].where(in_folder, of_file)
    for column, by in (("commit", []), ("dirty", []), ("torch", ["interpreter"]), ("machine", ["device"])):
        of_night = rows.groupby(["night", *by])[column].transform("last")
        rows[column] = rows[column].where(rows[column].notna(), of_night)
    rows["night"] = rows["night"].where(in_folder, rows["night"] + " " + rows["commit"].fillna("?"))
    rows["date"] = started.groupby(rows["night"]).transform("min")
    return rows[rows["date"].notna()]


def _place(path: str) -> tuple[str | None, str | None]:
    """The run that a record.json is of, and its side where it has two; neither of a line of a baseline file."""
    cell, _, name = path.rpartition(os.sep)
    if name != "record.json":
        return None, None
    folder, _, _ = cell.rpartition(os.sep)
    run, _, side = folder.rpartition(os.sep)
    return (run or ".", side) if side in SIDES else (folder or ".", None)


def _history(rows: DataFrame, telling: list[str]) -> History:
    last = rows.iloc[-1]
    size = f"P={rows['params'].median():.0f}" if rows["params"].notna().any() else "P=?"
    asked = [plain(last["problem"]), plain(last["quantity"]), size, plain(last["label"])]
    sampled = rows["times_s"].map(bool) & (rows["median_s"] > 0)
    fine = rows["status"].isin(("ok", APPROXIMATE))
    rows = rows.assign(time_s=rows["median_s"].where(sampled), failure=rows["status"].where(~fine))
    rows[list(ENVIRONMENT)] = rows[list(ENVIRONMENT)].ffill().bfill()
    processes = rows.groupby(["date", "night", "machine"], dropna=False)
    least, most = processes[list(COUNTERS)].min(), processes[list(COUNTERS)].max()
    nights = processes[["commit", "dirty", "torch", "packages"]].last().join(least.where(least == most))
    nights["status"] = processes["failure"].first().fillna("ok")
    nights["contended"] = processes["contended"].any()
    nights["time_s"] = processes["time_s"].median()
    nights[["low_s", "high_s"]] = processes["time_s"].apply(interval).tolist()
    return History(", ".join([*asked, *(setting(name, last[name]) for name in telling)]), nights.reset_index())
