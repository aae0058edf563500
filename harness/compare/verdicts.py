"""What a candidate did to each cell of a baseline: same, slower, faster, undecided, broken, fixed or not comparable.

Counters are the same in every process: any growth of one counts. Times are compared by the least time of each process
(a round), which other programs on the machine cannot make smaller: by the exact Mann-Whitney test, and by the interval
of the ratios that this test does not reject (Hodges and Lehmann 1963). A cell is slower if some slowdown is certain and
one of the guard's size is not ruled out.

The least time misses a slowdown of some calls only. So the mean times of the processes are compared by the same test.
They can show that a cell is slower, and nothing else, because other programs on the machine slow calls down too.

If baseline and candidate were measured in turn, the chance of any false alarm is at most 1 %. This holds over both
tests of all cells (Holm 1979), and over all looks at growing data: each look spends its part of the 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy
from pandas import DataFrame

from harness.compare import conditions
from harness.compare.counters import Counts, compare_counters
from harness.compare.matching import named
from harness.compare.process_times import CLIP, cut_off, mean_times, process_times
from harness.compare.statuses import CUT_OFF, TRANSIENT, by_status, by_time_limit, standing
from harness.compare.times import Times, holm, processes_needed, times
from harness.record.identity import ASKED

FAMILY = 0.01  # chance of any false alarm in a comparison
SPENT = (0.6, 0.2, 0.2)  # part of FAMILY that each look at growing data spends
NOT_TESTED = Times(math.nan, math.nan, math.nan, math.nan)
GUARD = 1.10  # a slowdown smaller than this is none, unless the guard is set

VERDICTS = ("broken", "slower", "undecided", "not comparable", "fixed", "faster", "same")
ALARMS = ("broken", "slower")
COLUMNS = (
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
)


def compare(base: DataFrame, candidate: DataFrame, guard: float = GUARD, allow: Collection[str] = ()) -> DataFrame:
    """One row for each cell that both frames (of `harness.record.load`) hold, the worst first.

    Columns: ASKED, `cell` (its name), `verdict` (of VERDICTS), `reason`, `ratio`, `low`, `high`, `p` (Holm's, over
    all cells), `base_s` and `candidate_s` (medians, s), `base_processes` and `candidate_processes`, `base_paths` and
    `candidate_paths` (the files of their records), `in_turn` (whether these were measured in turn).

    Counters in `allow` may change. A cell of the
    candidate alone is broken if it failed with an error; all others that one frame alone has are named in
    `.attrs["notes"]`, as is what else to know; `.attrs["skipped"]` are both frames'.
    """
    before, after = (dict(list(frame.groupby("key", sort=False))) for frame in named(base, candidate))
    rows = [_facts(before[key], after[key], allow) for key in before if key in after]
    _judge_times(rows, guard, level=FAMILY * SPENT[look_of(base, candidate)])
    failed = [key for key, own in after.items() if key not in before and standing(own)["status"] == "error"]
    rows += [_new_and_failed(after[key]) for key in failed]
    found = _sorted(DataFrame(rows, columns=list(COLUMNS)))
    found.attrs["notes"] = [
        *(f"the baseline alone has {own['cell'].iloc[0]}" for key, own in before.items() if key not in after),
        *(
            f"the candidate alone has {own['cell'].iloc[0]}"
            for key, own in after.items()
            if key not in before and key not in failed
        ),
        *conditions.notes(base, candidate, apart=int((~found["in_turn"].astype("bool")).sum())),
    ]
    found.attrs["skipped"] = [name for frame in (base, candidate) for name in frame.attrs.get("skipped", ())]
    return found


def look_of(base: DataFrame, candidate: DataFrame) -> int:
    """How often records were added because a comparison of these frames was undecided."""
    return int(max(frame["look"].fillna(0).max() for frame in (base, candidate)))


def candidate_folder(folder: Path) -> Path:
    """The candidate's folder in a run that also measured a baseline; any other folder as it is."""
    return folder / "candidate" if (folder / "candidate").is_dir() else folder


def _sorted(verdicts: DataFrame) -> DataFrame:
    """The worst verdict first, and within one the largest ratio."""
    place = verdicts["verdict"].map(VERDICTS.index)
    placed = verdicts.assign(place=place).sort_values(["place", "ratio"], ascending=[True, False], kind="stable")
    return placed.drop(columns="place").reset_index(drop=True)


def _judge_times(rows: list[dict[str, Any]], guard: float, level: float) -> None:
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
    if mean.low > 1 and mean.high >= guard:
        return "undecided", f"some calls may be slower: {some_calls}; {_by_chance(row['mean_p'], level, tests)}"
    if row["fell"] and row["high"] < guard:
        return "faster", row["fell"]
    if certain and row["ratio"] < 1 and row["low"] <= 1 / guard:
        return "faster", ""
    if 1 / guard < row["low"] and row["high"] < guard:
        return "same", ""
    needed = processes_needed(tests, level)
    advice = "more processes can decide it: raise rounds, or give --confirm"
    if min(row["base_processes"], row["candidate_processes"]) < needed:
        advice = f"baseline and candidate need at least {needed} processes each, for {tests} tests: raise rounds"
    excludes_1 = not row["low"] <= 1 <= row["high"]
    chance = _by_chance(row["p"], level, tests) if excludes_1 else ""
    return "undecided", "; ".join(filter(None, [row["fell"], chance, advice]))


def _by_chance(p: float, level: float, tests: int) -> str:
    """Why an interval that excludes 1 decides nothing."""
    return f"an interval may exclude 1 by chance in one of {tests} tests: p = {p:.2g}, needed is {level:.2g}"


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
        "permitted": "",
        "mean": NOT_TESTED,
        "mean_p": math.nan,
        "base_s": math.nan,
        "candidate_s": math.nan,
        "in_turn": True,
    }


def _new_and_failed(candidate: DataFrame) -> dict[str, Any]:
    """The row of a cell that the baseline lacks and that ended with an error."""
    reason = f"not in the baseline, and error: {standing(candidate)['message']}"
    return _row(candidate.head(0), candidate) | {"verdict": "broken", "reason": reason}


def _facts(base: DataFrame, candidate: DataFrame, allow: Collection[str]) -> dict[str, Any]:
    """A cell's row with its times, and its verdict where statuses, errors, time limits or counters give one.

    Else the verdict is None, since times are to decide; then `fell` names counters that did, and `doubts` says what
    speaks against "same".
    """
    row = _row(base, candidate)
    decided = by_status(base, candidate) or by_time_limit(base, candidate)
    if decided is not None:
        return row | {"verdict": decided[0], "reason": decided[1]}
    counts = compare_counters(base, candidate, allow)
    if counts.permitted:
        row["permitted"] = f"permitted: {', '.join(map(str, counts.permitted))}"
    obstacle = _obstacle(base, candidate)
    if obstacle is None:
        row |= _compared_times(base, candidate)
    if counts.grew:
        return row | {"verdict": "slower", "reason": counts.changed}
    if obstacle is not None:
        return row | _without_times(base, candidate, counts, obstacle)
    return row | {"verdict": None, "reason": "", "fell": counts.changed, "doubts": _doubts(candidate, counts)}


def _obstacle(base: DataFrame, candidate: DataFrame) -> str | None:
    """Why the times of a cell cannot be compared, if they cannot."""
    differing = conditions.difference(base, candidate, conditions.TIMED_ALIKE)
    if differing is not None:
        return f"times do not compare ({differing})"
    before, after = process_times(base, candidate)
    return None if before and after else "no times were taken"


def _compared_times(base: DataFrame, candidate: DataFrame) -> dict[str, Any]:
    """The columns of a row that tell of its times."""
    before, after = process_times(base, candidate)
    seen = times(before, after)
    means = mean_times(base), mean_times(candidate)
    mean = times(*means) if all(means) else NOT_TESTED
    return {
        "ratio": seen.ratio,
        "low": seen.low,
        "high": seen.high,
        "p": seen.p,
        "mean": mean,
        "mean_p": mean.p,
        "base_s": float(numpy.median(before)),
        "candidate_s": float(numpy.median(after)),
        "base_processes": len(before),
        "candidate_processes": len(after),
        "in_turn": conditions.in_turn(base, candidate),
    }


def _without_times(base: DataFrame, candidate: DataFrame, counts: Counts, obstacle: str) -> dict[str, Any]:
    """Verdict and reason by counters that did not grow, where an obstacle keeps times from being compared."""
    if counts.lost:
        return {"verdict": "undecided", "reason": f"{obstacle}; {counts.changed}"}
    if counts.changes:
        return {"verdict": "faster", "reason": f"{obstacle}; {counts.changed}"}
    if counts.same:
        return {"verdict": "same", "reason": f"{obstacle}; the same in both: {', '.join(counts.same)}"}
    if not _was_asked_for_times(base) and not _was_asked_for_times(candidate):
        return {"verdict": "same", "reason": "ok in both; no times were taken"}
    return {"verdict": "not comparable", "reason": obstacle}


def _doubts(candidate: DataFrame, counts: Counts) -> str:
    """What speaks against calling a cell the same."""
    found = []
    struck = candidate["status"].isin(TRANSIENT)
    if struck.any():
        statuses = ", ".join(sorted(set(candidate.loc[struck, "status"])))
        found.append(f"{struck.sum()} of {len(candidate)} processes: {statuses}")
    ended = cut_off(candidate)
    if ended.any() and not ended.all():
        found.append(f"{ended.sum()} of {len(candidate)} processes: {CUT_OFF}")
    if counts.lost:
        found.append(counts.changed)
    return "; ".join(found)


def _was_asked_for_times(records: DataFrame) -> bool:
    return bool(records["passes"].fillna("time").str.contains("time").any())
