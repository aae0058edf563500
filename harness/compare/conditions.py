"""Under which conditions a baseline and a candidate were measured: whether their times compare, and what to know."""

from __future__ import annotations

from collections.abc import Sequence

import pandas
from pandas import DataFrame

from harness.record import left_out
from harness.record.identity import MACHINE
from harness.text import listed

# What must be the same for times to compare: with more calls, for instance, the least time of them is smaller.
TIMED_ALIKE = (*MACHINE, "measure")
LONGEST = (
    3  # processes of one in a row, at most, where each pair begins in random order: two, and one for equal seconds
)


def difference(base: DataFrame, candidate: DataFrame, names: Sequence[str]) -> str | None:
    """What differs between the baseline's records and the candidate's, or within the baseline's: `cores 2 and 64`."""
    differing = []
    for name in names:
        before, after = _values(base, name), _values(candidate, name)
        if before != after or len(before) > 1:
            differing.append(f"{name} {_listed(before)} and {_listed(after)}")
    return "; ".join(differing) or None


def are_the_same(base: DataFrame, candidate: DataFrame) -> bool:
    """Whether every record of the candidate is one of the baseline's, or a copy of one."""
    return _processes(candidate) <= _processes(base)


def _processes(records: DataFrame) -> set[tuple[object, object]]:
    """What tells processes apart: no two take the same time, to the last digit. Where it is unknown, the file."""
    known = records["cell_s"].notna()
    ended = records["cell_s"].astype("object").where(known, records["path"])
    return set(zip(records["started"].fillna(""), ended, strict=True))


def in_turn(base: DataFrame, candidate: DataFrame) -> bool:
    """Whether timed processes of the baseline and of the candidate began in turn: at most LONGEST of one in a row."""
    both = pandas.concat([base.assign(of="baseline"), candidate.assign(of="candidate")])
    timed = both[both["fastest_s"].notna()].sort_values("started", kind="stable")
    stretches = timed["of"].ne(timed["of"].shift()).cumsum()
    return bool(stretches.value_counts().max() <= LONGEST)


def notes(base: DataFrame, candidate: DataFrame, apart: int) -> list[str]:
    """What else to know of a comparison, of which `apart` cells were not measured in turn."""
    parts = ("baseline", base), ("candidate", candidate)
    found = [f"{name}: {note}" for name, frame in parts for note in left_out(frame)]
    for name in ("torch", "cuda", "cudnn"):
        before, after = _values(base, name), _values(candidate, name)
        if before and after and before != after:
            found.append(f"{name} {_listed(before)} in the baseline, {_listed(after)} in the candidate")
            if name == "torch":
                found[-1] += ": operations and allocations may differ between versions, and are no regression"
    if changed := _changed_problems(base, candidate):
        found.append(f"the source of these problems differs between baseline and candidate: {listed(changed)}")
    if apart:
        found.append(
            f"{apart} cells were not measured in turn: their ratios include whatever else changed on the machine "
            "meanwhile, and false alarms may be more than 1 %"
        )
    return found


def _changed_problems(base: DataFrame, candidate: DataFrame) -> list[str]:
    """Problems of both, the recorded source of which is another in the candidate."""
    before, after = (
        records.dropna(subset="problem_hash").groupby("problem_name")["problem_hash"].agg(set)
        for records in (base, candidate)
    )
    return [name for name in before.index.intersection(after.index) if before[name] != after[name]]


def _values(records: DataFrame, name: str) -> list[str]:
    return sorted(set(records[name].dropna().map(str)))


def _listed(values: Sequence[str]) -> str:
    return " / ".join(values) or "unknown"
