"""More processes for the cells that a comparison leaves undecided, in turn for the baseline and the candidate."""

from __future__ import annotations

import math
import random
import shutil
import sys
import time
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas
from pandas import DataFrame

from harness import record
from harness.compare.jobs import read_job, refuse_foreign
from harness.compare.statuses import TRANSIENT
from harness.compare.time_verdicts import SPENT, look_of
from harness.compare.verdicts import GUARD, compare
from harness.job import Job
from harness.run.launcher import Launcher


@dataclass(frozen=True)
class _Again:
    """A cell that is to be run again."""

    records: tuple[str, str]  # one of the baseline's and one of the candidate's
    jobs: tuple[Job, Job]  # of these records
    processes: int  # of the baseline and of the candidate each


def confirm(
    folders: Sequence[Path],
    launcher: Launcher,
    budget_s: float,
    guard: float = GUARD,
    allow: Collection[str] = (),
    trusted: bool = False,
) -> DataFrame:
    """Verdicts on two run folders, baseline and candidate, in which undecided cells get as many processes again.

    So do cells that are broken by what may happen to any process. This is done once for each look that the records have
    left (`harness.compare.verdicts.SPENT`), and as long as `budget_s` lasts by the time that the cells took before. Of
    a cell that was not measured in turn, only the times of its new processes count. Raises RecordError where a cell's
    job is not beside its record, or its code is gone, and where folders that are not `trusted` name an interpreter, a
    folder of code or a function that is not the harness's.
    """
    began = time.monotonic()
    folders = [folder.resolve() for folder in folders]  # as frames name their files
    new: set[str] = set()  # files of records that this call added
    untimed: set[str] = set()  # files of records whose times do not count
    while True:
        frames = _frames(folders, untimed)
        verdicts = compare(*frames, guard=guard, allow=allow)
        look = 1 + look_of(*frames)
        if look == len(SPENT):
            return verdicts
        known = pandas.concat(frames).drop_duplicates("path").set_index("path")
        chosen = _affordable(verdicts, known, budget_s - (time.monotonic() - began))
        if not len(chosen):
            return verdicts
        again = [_again(row, trusted) for row in chosen.to_dict("records")]
        print(f"running {len(chosen)} cells again", file=sys.stderr, flush=True)
        for row in chosen.loc[~chosen["in_turn"].astype("bool")].to_dict("records"):
            untimed |= {*row["base_paths"], *row["candidate_paths"]} - new
        new |= _run_rounds(again, folders, 1 + int(known["round"].max()), look, launcher)


def _frames(folders: Sequence[Path], untimed: set[str]) -> list[DataFrame]:
    """The records of the folders, without the times of some files."""
    frames = [record.load(folder) for folder in folders]
    for frame in frames:
        frame.loc[frame["path"].isin(untimed), ["fastest_s", "first_s"]] = math.nan
    return frames


def _affordable(verdicts: DataFrame, known: DataFrame, left_s: float) -> DataFrame:
    """Those verdicts that more processes may change, in their order, as far as the time that is left allows.

    `known` are the records by their files.
    """
    chosen = []
    for place, row in verdicts.iterrows():
        by_chance = row["verdict"] == "broken" and _by_chance(known.loc[row["candidate_paths"], "status"])
        if row["verdict"] != "undecided" and not by_chance:
            continue
        cost_s = known.loc[[*row["base_paths"], *row["candidate_paths"]], "cell_s"].sum()
        if cost_s <= left_s:
            left_s -= cost_s
            chosen.append(place)
    return verdicts.loc[chosen]


def _by_chance(statuses: Iterable[str]) -> bool:
    """Whether nothing worse came of these records than what may happen to any process."""
    seen = set(statuses)
    return bool(seen & set(TRANSIENT)) and seen <= {"ok", *TRANSIENT}


def _again(row: Mapping[Hashable, Any], trusted: bool) -> _Again:
    """How the cell of a verdict is run again: like the records with the most passes."""
    sides = [
        [(path, _job(Path(path).with_name("job.json"), trusted)) for path in row[name]]
        for name in ("base_paths", "candidate_paths")
    ]
    (base, of_base), (candidate, of_candidate) = (max(side, key=lambda pair: len(pair[1].passes)) for side in sides)
    return _Again((base, candidate), (of_base, of_candidate), processes=len(row["base_paths"]))


def _run_rounds(
    cells: Sequence[_Again], folders: Sequence[Path], first: int, look: int, launcher: Launcher
) -> set[str]:
    """Run all cells round by round, numbered from `first`, for a look; the files of the new records."""
    new: set[str] = set()
    for number in range(max(cell.processes for cell in cells)):
        for cell in cells:
            if number < cell.processes:
                new |= _run_both(cell, folders, first + number, number == 0, look, launcher)
    return new


def _run_both(
    cell: _Again, folders: Sequence[Path], number: int, whole: bool, look: int, launcher: Launcher
) -> set[str]:
    """One more round of a cell's baseline and candidate, with all their passes or only timed; the new files."""
    both = list(zip(cell.records, cell.jobs, folders, strict=True))
    random.Random(number).shuffle(both)
    new: set[str] = set()
    for path, job, folder in both:
        found = launcher.run(replace(job, round=number, passes=job.passes if whole else ("time",)), folder, look)
        _require_same_code(Path(path), found)
        new.add(str(found))
    return new


def _require_same_code(before: Path, found: Path) -> None:
    """Remove a new record, and raise RecordError, where its method or torch is not that of the record before."""
    seen, now = record.read(before), record.read(found)
    changed = [
        name for name in ("method_hash", "torch") if now[name] is not None and seen[name] not in (None, now[name])
    ]
    if changed:
        shutil.rmtree(found.parent)
        raise record.RecordError(
            f"{before}: its {' and '.join(changed)} changed since, so it cannot be run again; measure baseline and "
            "candidate in one run instead: python -m harness +sweep=nightly baseline=git:REF"
        )


def _job(file: Path, trusted: bool) -> Job:
    """The job of a file; raises RecordError where it cannot be run again, or may not as it is not trusted."""
    job = read_job(file)
    if not trusted:
        refuse_foreign(job, file)
    if job.code is not None and not Path(job.code).is_dir():
        raise record.RecordError(
            f"{file}: the code that it ran, in {job.code}, is gone; give the sweep itself confirm_s, or raise rounds"
        )
    return job
