"""What a candidate did to each cell of a baseline: same, slower, faster, undecided, broken, fixed or not comparable.

Counters are the same in every process: any growth of one counts. Times are compared by the least time of each process
(a round), whose noise others on the machine cannot make smaller: by the exact Mann-Whitney test, and by the interval of
the ratio of times that this test does not reject (Hodges and Lehmann 1963). A cell is slower if some slowdown is
certain and one of the guard's size is not ruled out. If the sides were measured in turn, the chance that any false
alarm is raised, over all cells of a comparison and over all its looks at growing data, is at most 1 % (Holm 1979;
Bonferroni over the looks).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy
import pandas
from pandas import DataFrame, Series

from harness.compare.matching import named
from harness.compare.times import holm, processes_needed, times
from harness.record import COUNTERS
from harness.record.identity import ASKED, MACHINE

FAMILY = 0.01  # chance of any false alarm in a comparison
GUARD = 1.10  # a slowdown smaller than this is none, unless the guard is set
DISPATCHED = ("operations", "flops")  # those that do not depend on a GPU's libraries and their workspaces
ERROR_GREW = 10.0  # an error larger by this factor, though tolerated, is a change of the computation

# What must be the same for times to compare: the least of many calls is less than that of few.
TIMED_ALIKE = (*MACHINE, "measure")

VERDICTS = ("broken", "slower", "undecided", "not comparable", "fixed", "faster", "same")
ALARMS = ("broken", "slower")
# A status further right is worse.
SEVERITY = {"ok": 0, "unsupported": 1, "oom": 2, "timeout": 2, "error": 2, "crashed": 3, "nonfinite": 3, "wrong": 3}
STRETCH = 3  # two, where the order of every pair is drawn by chance; and one, since begun in the same second
TRANSIENT = ("timeout", "oom", "crashed")  # what others on the machine may do to a process


def compare(
    base: DataFrame, candidate: DataFrame, guard: float = GUARD, allow: Collection[str] = (), looks: int = 1
) -> DataFrame:
    """One row a cell that both frames (of `harness.record.load`) hold, the worst first.

    Columns: ASKED, `cell` (its name), `verdict` (of VERDICTS), `reason`, `ratio`, `low`, `high`, `p` (Holm's, over
    all cells), `base_s` and `candidate_s` (medians, s), `base_processes` and `candidate_processes`, `base_paths` and
    `candidate_paths` (the files of their records), `in_turn` (whether these were measured in turn).

    Counters in `allow` may change. `looks` is how often the data may be looked at while it grows. A cell of the
    candidate alone is broken if it failed with an error; all others that one frame alone has are named in
    `.attrs["notes"]`, as is what else to know; `.attrs["skipped"]` are both frames'.
    """
    sides = [dict(list(frame.groupby("key", sort=False))) for frame in named(base, candidate)]
    rows = [_facts(sides[0][key], sides[1][key], allow) for key in sides[0] if key in sides[1]]
    known = [row["p"] for row in rows if not math.isnan(row["p"])]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = p
        if row["verdict"] is None:
            row["verdict"], row["reason"] = _of_time(row, guard, FAMILY / looks, len(known))
    new = [own for key, own in sides[1].items() if key not in sides[0] and _standing(own)["status"] == "error"]
    for own in new:
        reason = f"not in the baseline, and error: {_standing(own)['message']}"
        rows.append(_row(own.head(0), own) | {"verdict": "broken", "reason": reason})
    found = DataFrame(
        rows,
        columns=[
            *ASKED,
            "cell",
            "verdict",
            "reason",
            "ratio",
            "low",
            "high",
            "p",
            "base_s",
            "candidate_s",
            "base_processes",
            "candidate_processes",
            "base_paths",
            "candidate_paths",
            "in_turn",
        ],
    )
    place = found["verdict"].map(VERDICTS.index)
    found = found.assign(place=place).sort_values(["place", "ratio"], ascending=[True, False], kind="stable")
    found = found.drop(columns="place").reset_index(drop=True)
    found.attrs["notes"] = [
        f"{name} alone has {own['cell'].iloc[0]}"
        for name, here, there in (("the baseline", sides[0], sides[1]), ("the candidate", sides[1], sides[0]))
        for key, own in here.items()
        if key not in there and not any(own is other for other in new)
    ]
    found.attrs["notes"] += _beside(base, candidate, apart=int((~found["in_turn"].astype("bool")).sum()))
    found.attrs["skipped"] = [name for frame in (base, candidate) for name in frame.attrs.get("skipped", ())]
    return found


def candidate_folder(folder: Path) -> Path:
    """The candidate's folder in a run that also measured a baseline; any other folder as it is."""
    return folder / "candidate" if (folder / "candidate").is_dir() else folder


def _in_turn(base: DataFrame, candidate: DataFrame) -> bool:
    """Whether the timed processes of a cell's sides were begun in turn: never more than STRETCH of one in a row."""
    sides = [side.assign(side=number) for number, side in enumerate((base, candidate))]
    timed = pandas.concat([side[side["fastest_s"].notna()] for side in sides]).sort_values("started", kind="stable")
    stretches = timed["side"].ne(timed["side"].shift()).cumsum()
    return bool(stretches.value_counts().max() <= STRETCH)


def _of_time(row: dict[str, Any], guard: float, level: float, cells: int) -> tuple[str, str]:
    """Verdict and reason by the interval of the ratio, and by its p-value among those of all cells."""
    certain = row["p"] < level
    if certain and row["ratio"] > 1 and row["high"] >= guard:
        return "slower", ""
    if row["doubts"]:
        return "undecided", row["doubts"]
    if row["fell"] and row["high"] < guard:
        return "faster", row["fell"]
    if certain and row["ratio"] < 1 and row["low"] <= 1 / guard:
        return "faster", ""
    if 1 / guard < row["low"] and row["high"] < guard:
        return "same", ""
    needed = processes_needed(cells, level)
    why = "more processes would tell: raise rounds, or let --confirm run more"
    if min(row["base_processes"], row["candidate_processes"]) < needed:
        why = f"{needed} processes a side are the least that can tell, of {cells} cells: raise rounds"
    return "undecided", "; ".join(filter(None, [row["fell"], why]))


def _row(base: DataFrame, candidate: DataFrame) -> dict[str, Any]:
    """A cell's row as far as it is known without comparing."""
    first = candidate.iloc[0]
    return {name: first[name] for name in [*ASKED, "cell"]} | {
        "base_paths": list(base["path"]),
        "candidate_paths": list(candidate["path"]),
        "base_processes": len(base),
        "candidate_processes": len(candidate),
        "ratio": math.nan,
        "low": math.nan,
        "high": math.nan,
        "p": math.nan,
        "base_s": math.nan,
        "candidate_s": math.nan,
        "in_turn": True,
    }


def _facts(base: DataFrame, candidate: DataFrame, allow: Collection[str]) -> dict[str, Any]:
    """A cell's row: its verdict where statuses, agreement or counters give one, else None, and its times.

    Where the times are to tell, `fell` are counters that did, and `doubts` what speaks against calling it the same.
    """
    row = _row(base, candidate)
    changed = _status(base, candidate)
    if changed is not None:
        return row | dict(zip(("verdict", "reason"), changed, strict=True))
    elsewhere = _elsewhere(base, candidate, TIMED_ALIKE)
    values = [_process_times(side) for side in (base, candidate)]
    if elsewhere is None and all(values):
        seen = times(*values)
        row |= {"ratio": seen.ratio, "low": seen.low, "high": seen.high, "p": seen.p}
        row |= {"base_processes": len(values[0]), "candidate_processes": len(values[1])}
        row["in_turn"] = _in_turn(base, candidate)
        row |= {name: float(numpy.median(side)) for name, side in zip(("base_s", "candidate_s"), values, strict=True)}
    held = [
        name
        for name in COUNTERS
        if name not in allow
        and (
            name in DISPATCHED
            or candidate["device"].iloc[0] == "cpu"
            or _elsewhere(base, candidate, ["gpu", "driver", "cudnn"]) is None
        )
    ]
    pairs = {name: pair for name in held if (pair := _pair(base, candidate, name)) is not None}
    changes = {name: (before, after) for name, (before, after) in pairs.items() if after != [before]}
    said = ", ".join(
        f"{name} {before:,.0f} to {' or '.join(f'{count:,.0f}' for count in after) or 'unknown'}"
        for name, (before, after) in changes.items()
    )
    if any(max(after, default=0) > before for before, after in changes.values()):
        return row | {"verdict": "slower", "reason": said}
    lost = [name for name, (_, after) in changes.items() if not after]
    known = [name for name in pairs if name not in lost]
    if elsewhere is not None or not all(values):
        told = f"the same in both: {', '.join(known)}" if known and not changes else said
        why = elsewhere or "no times were taken"
        verdict = "undecided" if lost else "faster" if changes else "same" if known else "not comparable"
        return row | {"verdict": verdict, "reason": f"{why}; {told}" if told else why}
    struck = candidate["status"].isin(TRANSIENT)
    doubts = [
        f"{struck.sum()} of {len(candidate)} processes: {', '.join(sorted(set(candidate.loc[struck, 'status'])))}"
    ]
    doubts = [*(doubts if struck.any() else ()), *([said] if lost else ())]
    return row | {"verdict": None, "reason": "", "fell": said, "doubts": "; ".join(doubts)}


def _standing(side: DataFrame) -> Series:
    """The record whose status stands for a side: the worst, but TRANSIENT ones only where most processes have them.

    Most of those with the same passes: what ends in a pass that one process alone ran is not outvoted by the others.
    """
    struck = side["status"].isin(TRANSIENT)
    share = struck.groupby(side["passes"].fillna("?")).transform("mean")
    rest = side[~struck | (share > 0.5)]
    return rest.iloc[int(rest["status"].map(SEVERITY).to_numpy().argmax())]


def _status(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Verdict and reason where not both sides are ok, or their agreement changed."""
    before, after = (_standing(side) for side in (base, candidate))
    statuses = before["status"], after["status"]
    if statuses != ("ok", "ok"):
        if statuses[0] == statuses[1]:
            return "same", f"{statuses[0]} in both"
        worse = SEVERITY[statuses[1]] > SEVERITY[statuses[0]]
        message = (before if statuses[1] == "ok" else after)["message"]
        said = f"{' to '.join(statuses)}{f': {message}' if message else ''}"
        return "broken" if worse else "fixed" if statuses[1] == "ok" else "same", said
    errors = [side["relative_error"].max() for side in (base, candidate)]
    tolerance = candidate["tolerance"].max()
    if errors[1] > max(ERROR_GREW * errors[0], tolerance / 100 if tolerance > 0 else 0.0):
        return "broken", f"relative error {errors[0]:.1e} to {errors[1]:.1e}"
    return None


def _pair(base: DataFrame, candidate: DataFrame, counter: str) -> tuple[float, list[float]] | None:
    """A counter before, and all that the candidate's processes counted.

    None where the baseline's processes do not agree on one, and where the candidate's were not asked to count.
    """
    before, after = (sorted(side[counter].dropna().unique()) for side in (base, candidate))
    asked = candidate["passes"].fillna("exact").str.contains("exact").any()
    return (before[0], after) if len(before) == 1 and (after or asked) else None


def _elsewhere(base: DataFrame, candidate: DataFrame, names: Sequence[str]) -> str | None:
    """What differs between the two sides, or within one."""
    differing = []
    for name in names:
        before, after = (sorted(set(side[name].dropna().map(str))) for side in (base, candidate))
        if before != after or len(before) > 1:
            differing.append(f"{name} {' / '.join(before) or 'unknown'} and {' / '.join(after) or 'unknown'}")
    return f"times do not compare ({'; '.join(differing)})" if differing else None


def _beside(base: DataFrame, candidate: DataFrame, apart: int) -> list[str]:
    """What else to know of two frames, of which so many cells were not measured in turn."""
    told = []
    for name in ("torch", "cuda", "cudnn"):
        before, after = (sorted(set(frame[name].dropna().map(str))) for frame in (base, candidate))
        if before and after and before != after:
            told.append(f"{name} {' / '.join(before)} in the baseline, {' / '.join(after)} in the candidate")
    if apart:
        told.append(
            f"{apart} cells were not measured in turn: whatever else changed on the machine meanwhile is in "
            "their ratios, and false alarms may be more than 1 %"
        )
    return told


def _process_times(side: DataFrame) -> list[float]:
    right = side[side["status"] == "ok"]
    return [float(value) for value in right["fastest_s"].fillna(right["first_s"]).dropna() if value > 0]
