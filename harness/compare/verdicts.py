"""What a candidate did to each cell of a baseline: same, slower, faster, undecided, broken, fixed or not comparable.

Counters are the same in every process: any change of one counts. Times are compared by the least time of each process
(a round), whose noise others on the machine cannot make smaller: by the exact Mann-Whitney test, and by the interval of
the ratio of times that this test does not reject (Hodges and Lehmann 1963). A cell is slower if some slowdown is
certain and one of the guard's size is not ruled out. Over all cells of a comparison, and over its at most three looks
at growing data, the chance that any false alarm is raised is at most 1 % (Holm 1979; Bonferroni over the looks).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import pandas
from pandas import DataFrame
from scipy import stats

from harness.report.rows import plain, prepared

LOOKS = 3  # the first, and two after more processes where it was undecided
FAMILY = 0.01 / LOOKS  # chance of any false alarm at one look
LEVEL = 0.99  # of the intervals
GUARD = 1.10  # a slowdown smaller than this is none, unless the guard is set
COUNTERS = ("operations", "allocations", "flops", "tensor_peak_bytes")
ERROR_GREW = 10.0  # an error larger by this factor, though tolerated, is a change of the computation

# What makes a cell; its rounds, and the code and the interpreter that ran it, are what is compared.
IDENTITY = ["problem", "problem_options", "method", "method_options", "quantity", "vectors", "subset", "device",
            "dtype", "threads", "allocator", "seed"]  # fmt: skip
MACHINE = ["cpu", "cores", "gpu", "driver", "governor", "platform"]

VERDICTS = ("broken", "slower", "undecided", "not comparable", "fixed", "faster", "same")
ALARMS = ("broken", "slower")
# A status further right is worse.
SEVERITY = {"ok": 0, "unsupported": 1, "oom": 2, "timeout": 2, "error": 2, "crashed": 3, "nonfinite": 3, "wrong": 3}


@dataclass(frozen=True)
class Times:
    """Two samples of process-level times, compared."""

    ratio: float  # candidate over baseline: the median of all ratios between processes
    low: float  # of its interval at LEVEL; 0 and infinite where there are too few processes
    high: float
    p: float  # two-sided


def compare(base: DataFrame, candidate: DataFrame, guard: float = GUARD, allow: Collection[str] = ()) -> DataFrame:
    """One row a cell that both frames (of `harness.record.load`) hold, the worst first.

    Columns: IDENTITY, `cell` (its name), `verdict` (of VERDICTS), `reason`, `ratio`, `low`, `high`, `p` (Holm's, over
    all cells), `base_s` and `candidate_s` (medians, s), `base_processes` and `candidate_processes`, `base_paths` and
    `candidate_paths` (the files of their records). Cells of one frame alone are named in `.attrs["unmatched"]`.
    Counters in `allow` may change.
    """
    sides = [dict(list(_named(frame).groupby("key", sort=False))) for frame in (base, candidate)]
    both = [key for key in sides[0] if key in sides[1]]
    rows = [_facts(sides[0][key], sides[1][key], allow) for key in both]
    holm = _holm([row["p"] for row in rows])
    for row, p in zip(rows, holm, strict=True):
        row["p"] = p
        if row["verdict"] is None:
            row["verdict"], row["reason"] = _of_time(row, guard)
    found = DataFrame(rows, columns=[*IDENTITY, "cell", "verdict", "reason", "ratio", "low", "high", "p", "base_s",
                                     "candidate_s", "base_processes", "candidate_processes", "base_paths",
                                     "candidate_paths"])  # fmt: skip
    place = found["verdict"].map(VERDICTS.index)
    found = found.assign(place=place).sort_values(["place", "ratio"], ascending=[True, False], kind="stable")
    found = found.drop(columns="place").reset_index(drop=True)
    found.attrs["unmatched"] = [
        f"{name} alone has {rows['cell'].iloc[0]}"
        for name, own, other in (("the baseline", sides[0], sides[1]), ("the candidate", sides[1], sides[0]))
        for key, rows in own.items()
        if key not in other
    ]
    return found


def times(base: Sequence[float], candidate: Sequence[float]) -> Times:
    """Compare process-level times: the Mann-Whitney test, and the interval of ratios that it does not reject."""
    ratios = numpy.sort(numpy.divide.outer(numpy.asarray(candidate), numpy.asarray(base)).ravel())

    def rejected(count: int) -> bool:
        """Whether a ratio with `count` of the pairs' ratios below it is."""
        middle = ratios[0] / 2 if count == 0 else math.sqrt(ratios[count - 1] * ratios[count])
        return _p(numpy.asarray(base) * middle, candidate) < 1 - LEVEL

    low, high = 0, (len(ratios) + 1) // 2  # p grows with the count up to one half
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if rejected(middle) else (low, middle)
    ends = (ratios[low - 1], ratios[-low]) if low else (0.0, math.inf)
    return Times(float(numpy.median(ratios)), float(ends[0]), float(ends[1]), _p(base, candidate))


def _p(base: Sequence[float] | numpy.ndarray, candidate: Sequence[float]) -> float:
    exact = max(len(base), len(candidate)) <= 50
    return float(stats.mannwhitneyu(base, candidate, method="exact" if exact else "asymptotic").pvalue)


def _holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of all that are known (Scandinavian Journal of Statistics 6, 1979); NaN stays."""
    known = [index for index, p in enumerate(values) if not math.isnan(p)]
    adjusted, least = [math.nan] * len(values), 0.0
    for rank, index in enumerate(sorted(known, key=lambda index: values[index])):
        least = max(least, min((len(known) - rank) * values[index], 1.0))
        adjusted[index] = least
    return adjusted


def _of_time(row: dict[str, Any], guard: float) -> tuple[str, str]:
    """Verdict and reason by the interval of the ratio, and by its p-value among those of all cells."""
    certain = row["p"] < FAMILY
    if certain and row["ratio"] > 1 and row["high"] >= guard:
        return "slower", ""
    if certain and row["ratio"] < 1 and row["low"] <= 1 / guard:
        return "faster", ""
    if 1 / guard < row["low"] and row["high"] < guard:
        return "same", ""
    return "undecided", "more processes would tell: raise rounds, or let --confirm run more"


def _facts(base: DataFrame, candidate: DataFrame, allow: Collection[str]) -> dict[str, Any]:
    """A cell's row: its verdict where statuses, agreement or counters give one, else None, and its times."""
    first = candidate.iloc[0]
    row: dict[str, Any] = {name: first[name] for name in [*IDENTITY, "cell"]}
    row |= {"base_paths": list(base["path"]), "candidate_paths": list(candidate["path"]),
            "base_processes": len(base), "candidate_processes": len(candidate), "ratio": math.nan, "low": math.nan,
            "high": math.nan, "p": math.nan, "base_s": math.nan, "candidate_s": math.nan}  # fmt: skip
    changed = _status(base, candidate)
    if changed is not None:
        return row | dict(zip(("verdict", "reason"), changed, strict=True))
    if first["status"] != "ok":
        return row | {"verdict": "same", "reason": f"{first['status']} in both"}
    changes = {name: pair for name in COUNTERS if name not in allow
               if (pair := _pair(base[name], candidate[name])) is not None}  # fmt: skip
    more = [name for name, (before, after) in changes.items() if after > before]
    said = ", ".join(f"{name} {before:,.0f} to {after:,.0f}" for name, (before, after) in changes.items())
    elsewhere = _machines(base, candidate)
    values = [_process_times(side) for side in (base, candidate)]
    if elsewhere is None and all(values):
        seen = times(*values)
        row |= {"ratio": seen.ratio, "low": seen.low, "high": seen.high, "p": seen.p}
        row |= {name: float(numpy.median(side)) for name, side in zip(("base_s", "candidate_s"), values, strict=True)}
    if changes:
        return row | {"verdict": "slower" if more else "faster", "reason": said}
    if elsewhere is not None:
        counted = any(base[name].notna().any() and candidate[name].notna().any() for name in COUNTERS)
        told = "; counters, status and agreement are the same" if counted else ""
        return row | {"verdict": "same" if counted else "not comparable", "reason": f"{elsewhere}{told}"}
    if not all(values):
        return row | {"verdict": "same", "reason": "no times were taken"}
    return row | {"verdict": None, "reason": ""}


def _status(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Broken or fixed, and why, where the worst status of the processes or the agreement changed."""
    worst = [side.iloc[int(side["status"].map(SEVERITY).to_numpy().argmax())] for side in (base, candidate)]
    before, after = (SEVERITY[row["status"]] for row in worst)
    if before != after:
        message = worst[1]["message"] or ""
        said = f"{worst[0]['status']} to {worst[1]['status']}{': ' if message else ''}{message}"
        return "broken" if after > before else "fixed", said
    errors = [side["relative_error"].max() for side in (base, candidate)]
    least = worst[1]["tolerance"] / 100 if pandas.notna(worst[1]["tolerance"]) else 0.0
    if after == 0 and errors[1] > max(ERROR_GREW * errors[0], least):
        return "broken", f"relative error {errors[0]:.1e} to {errors[1]:.1e}"
    return None


def _pair(base: pandas.Series, candidate: pandas.Series) -> tuple[float, float] | None:
    """A counter before and after, where all processes of each side agree on it and the sides do not."""
    before, after = base.dropna().unique(), candidate.dropna().unique()
    return (before[0], after[0]) if len(before) == len(after) == 1 and before[0] != after[0] else None


def _machines(base: DataFrame, candidate: DataFrame) -> str | None:
    """What differs where the two sides ran on different machines."""
    differing = []
    for name in MACHINE:
        before, after = (sorted(set(side[name].dropna().map(str))) for side in (base, candidate))
        if before != after:
            differing.append(f"{name} {' / '.join(before) or 'unknown'} and {' / '.join(after) or 'unknown'}")
    return f"times are of different machines ({'; '.join(differing)})" if differing else None


def _process_times(side: DataFrame) -> list[float]:
    return [float(value) for value in side["fastest_s"].fillna(side["first_s"]).dropna() if value > 0]


def _named(frame: DataFrame) -> DataFrame:
    """The frame with columns `key`, equal for rows of the same cell, and `cell`, its name."""
    keys: list[Hashable] = [
        tuple(f"{value:g}" if pandas.api.types.is_number(value) else str(value) for value in row)
        for row in frame[IDENTITY].itertuples(index=False)
    ]
    shown = prepared(frame)
    size = shown["params"].map(lambda params: "" if pandas.isna(params) else f" P={params:.0f}")
    told = shown["problem"] + size + ", " + shown["label"] + ", " + shown["quantity"] + ", " + shown["dtype"]
    names = (told + ", " + shown["device"]).map(plain)
    return frame.assign(key=pandas.Series(keys, index=frame.index, dtype="object"), cell=names.to_numpy())
