"""What a candidate did to each cell of a baseline: same, slower, faster, undecided, broken, fixed or not comparable.

Counters are the same in every process: any growth of one counts. `harness.compare.time_verdicts` says how times decide.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy
from pandas import DataFrame

from harness.compare import conditions
from harness.compare.counters import Counts, compare_counters
from harness.compare.matching import named
from harness.compare.process_times import cut_off, mean_times, process_times
from harness.compare.statuses import CUT_OFF, TRANSIENT, by_status, by_time_limit, standing
from harness.compare.time_verdicts import FAMILY, NOT_TESTED, SPENT, judge, look_of
from harness.compare.times import times
from harness.record.identity import ASKED

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

    Counters in `allow` may change. A cell of the candidate alone is broken if it failed with an error; all others that
    one frame alone has are named in `.attrs["notes"]`, as is what else to know; `.attrs["skipped"]` are both frames'.
    """
    before, after = (dict(list(frame.groupby("key", sort=False))) for frame in named(base, candidate))
    rows = [_facts(before[key], after[key], allow) for key in before if key in after]
    judge(rows, guard, level=FAMILY * SPENT[look_of(base, candidate)])
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


def candidate_folder(folder: Path) -> Path:
    """The candidate's folder in a run that also measured a baseline; any other folder as it is."""
    return folder / "candidate" if (folder / "candidate").is_dir() else folder


def _sorted(verdicts: DataFrame) -> DataFrame:
    """The worst verdict first, and within one the largest ratio."""
    place = verdicts["verdict"].map(VERDICTS.index)
    placed = verdicts.assign(place=place).sort_values(["place", "ratio"], ascending=[True, False], kind="stable")
    return placed.drop(columns="place").reset_index(drop=True)


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
    if conditions.are_the_same(base, candidate):
        return row | {"verdict": "not comparable", "reason": "the candidate's records are the baseline's own"}
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
    ended = [name for name, frame in (("baseline", base), ("candidate", candidate)) if cut_off(frame).any()]
    if not (before and after) and ended:
        return f"{CUT_OFF} in the {' and the '.join(ended)}"
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
