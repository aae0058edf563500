"""What times say of each cell: slower, faster, the same, or undecided.

Times are compared by the least time of each process (a round), which other programs on the machine cannot make smaller:
by the exact Mann-Whitney test, and by the interval of the ratios that this test does not reject (Hodges and Lehmann
1963). A cell is slower if some slowdown is certain and one of the guard's size is not ruled out.

The least time misses a slowdown of some calls only. So the mean times of the processes are compared by the same test.
They can show that a cell is slower, and nothing else, because other programs on the machine slow calls down too.

If baseline and candidate were measured in turn, the chance of any false alarm by times is at most 1 %. This holds over
both tests of all cells (Holm 1979), and over all looks at growing data: each look spends its part of the 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pandas import DataFrame

from harness.compare.process_times import CLIP
from harness.compare.times import Times, holm, processes_needed

FAMILY = 0.01  # chance of any false alarm in a comparison
SPENT = (0.6, 0.2, 0.2)  # part of FAMILY that each look at growing data spends
NOT_TESTED = Times(math.nan, math.nan, math.nan, math.nan)


def look_of(base: DataFrame, candidate: DataFrame) -> int:
    """How often records were added because a comparison of these frames was undecided; at most the last of SPENT."""
    looks = max(frame["look"].fillna(0).max() for frame in (base, candidate))
    return min(max(int(looks), 0), len(SPENT) - 1)


def judge(rows: list[dict[str, Any]], guard: float, level: float) -> None:
    """Adjust the rows' p-values for their number, and give a verdict to those that times are to decide.

    Also name the permitted changes of counters in the reasons.
    """
    values = [p for row in rows for p in (row["p"], row["mean_p"])]
    adjusted = iter(holm(values))
    tests = sum(not math.isnan(p) for p in values)
    for row in rows:
        row["p"], row["mean_p"] = next(adjusted), next(adjusted)
        if row["verdict"] is None:
            row["verdict"], row["reason"] = _of_time(row, guard, level, tests)
        row["reason"] = "; ".join(filter(None, [row["reason"], row["permitted"]]))


def _of_time(row: Mapping[str, Any], guard: float, level: float, tests: int) -> tuple[str, str]:
    """Verdict and reason by the intervals of the ratios, and by their p-values among those of all tests."""
    certain = row["p"] < level
    if certain and row["ratio"] > 1 and row["high"] >= guard:
        return "slower", ""
    mean: Times = row["mean"]
    some_calls = f"their mean has the ratio {mean}, where a call counts as {CLIP:g} times the least at most"
    if row["mean_p"] < level and mean.ratio > 1 and mean.high >= guard:
        return "slower", f"some calls: {some_calls}"
    if row["doubts"]:
        return "undecided", row["doubts"]
    needed = processes_needed(tests, level)
    advice = "more processes can decide it: measure anew with more rounds, or give --confirm"
    if min(row["base_processes"], row["candidate_processes"]) < needed:
        advice = f"measure anew with more rounds: {tests} tests need at least {needed} processes of each"
    if mean.low > 1 and mean.high >= guard:
        chance = _by_chance(row["mean_p"], level, tests)
        return "undecided", f"some calls may be slower: {some_calls}; {chance}; {advice}"
    if row["fell"] and row["high"] < guard:
        return "faster", row["fell"]
    if certain and row["ratio"] < 1 and row["low"] <= 1 / guard:
        return "faster", ""
    if 1 / guard < row["low"] and row["high"] < guard:
        return "same", ""
    excludes_1 = not row["low"] <= 1 <= row["high"]
    chance = _by_chance(row["p"], level, tests) if excludes_1 else ""
    return "undecided", "; ".join(filter(None, [row["fell"], chance, advice]))


def _by_chance(p: float, level: float, tests: int) -> str:
    """Why an interval that excludes 1 decides nothing."""
    return f"an interval may exclude 1 by chance in one of {tests} tests: p = {p:.2g}, needed is {level:.2g}"
