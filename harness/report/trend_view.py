"""What a picture of one cell over the nights shows, however it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
from pandas import DataFrame, Timestamp

from harness.analysis.history import History, changes, successive
from harness.analysis.trend import Step, Trend
from harness.record import COUNTERS

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@dataclass(frozen=True)
class Panel:
    """One cell's nights in drawn units, and what happened between them."""

    cell: str
    title: str  # of the values, with their unit
    lines: list[DataFrame]  # one a machine: night, date, value, low, high, status, contended
    levels: list[tuple[Timestamp, Timestamp, float]]  # medians between steps
    steps: list[tuple[Timestamp, str]]  # the first night after each, and what stepped
    changes: list[tuple[Timestamp, str]]  # of torch, machine or packages, on the first night with it
    failures: list[tuple[Timestamp, str]]  # nights whose status is not ok


def panels(seen: Trend) -> list[Panel]:
    """A panel a cell, those that step first."""
    return [_panel(history, [step for step in seen.steps if step.cell == history.cell]) for history in seen.histories]


def _panel(history: History, steps: Sequence[Step]) -> Panel:
    """Times if there are any, else the exact counter that steps or, where none does, the first that is known."""
    wanted = ["time_s", *(step.measure for step in steps if step.measure in COUNTERS), *COUNTERS]
    column = next((name for name in wanted if history.nights[name].notna().any()), "time_s")
    known = history.of(column)
    unit = "" if column != "time_s" else next((u for u, s in UNITS.items() if known[column].median() >= s), "µs")
    ends = ("low_s", "high_s") if unit else (column, column)
    drawn = known.assign(
        **{
            name: known[source] / UNITS.get(unit, 1.0)
            for name, source in zip(("value", "low", "high"), (column, *ends), strict=True)
        }
    )
    own = [step for step in steps if step.measure == column.removesuffix("_s")]
    lines = [line for _, line in drawn.groupby("machine", dropna=False)]
    return Panel(
        cell=history.cell,
        title="nothing was measured" if known.empty else f"time ({unit})" if unit else column,
        lines=lines,
        levels=[level for line in lines for level in _levels(line, own)],
        steps=[(step.after["date"], f"{step.measure} {step.said}") for step in steps],
        changes=[
            (after["date"], text) for before, after in successive(history.nights) for text in changes(before, after)
        ],
        failures=[
            (date, status)
            for date, status in zip(history.nights["date"], history.nights["status"], strict=True)
            if status != "ok"
        ],
    )


def _levels(line: DataFrame, steps: Sequence[Step]) -> list[tuple[Timestamp, Timestamp, float]]:
    """The median of every stretch of one machine's nights between its steps."""
    firsts = {step.after.name for step in steps}
    stretch = pandas.Series(line.index.isin(firsts), index=line.index).cumsum()
    return [(part["date"].iloc[0], part["date"].iloc[-1], part["value"].median()) for _, part in line.groupby(stretch)]
