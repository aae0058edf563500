"""More processes for the cells that a comparison leaves undecided, both sides in turn, before an alarm is raised."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas
from pandas import DataFrame

from harness import record
from harness.compare.statuses import TRANSIENT
from harness.compare.verdicts import GUARD, compare
from harness.job import Job
from harness.run.launcher import Launcher

LOOKS = 3  # the first, and two after more processes where it was undecided


def confirm(
    folders: Sequence[Path], launcher: Launcher, budget_s: float, guard: float = GUARD, allow: Collection[str] = ()
) -> DataFrame:
    """Verdicts on two run folders, baseline and candidate, to which undecided cells get as many processes again.

    So do those that are broken by what may strike by chance. At most LOOKS - 1 times, as long as `budget_s` lasts, by
    the time that the cells took before. Where a cell was not measured in turn, its new processes alone tell times.
    Raises RecordError where a cell's job is not beside its record, or what it ran is not there any more.
    """
    began = time.monotonic()
    folders = [folder.resolve() for folder in folders]  # as frames name their files
    ran: set[str] = set()  # files of the new records
    untimed: set[str] = set()
    for _ in range(LOOKS - 1):
        frames = _frames(folders, untimed)
        verdicts = compare(*frames, guard=guard, allow=allow, looks=LOOKS)
        known = pandas.concat(frames).drop_duplicates("path").set_index("path")
        again: list[tuple[list[str], int]] = []  # a record of each side, and how many more there are to be
        left_s = budget_s - (time.monotonic() - began)
        for _, row in verdicts.iterrows():
            paths = [*row["base_paths"], *row["candidate_paths"]]
            by_chance = row["verdict"] == "broken" and _by_chance(known.loc[row["candidate_paths"], "status"])
            if row["verdict"] == "undecided" or by_chance:
                cost = known.loc[paths, "cell_s"].sum()
                if cost <= left_s:
                    left_s -= cost
                    sides = row["base_paths"], row["candidate_paths"]
                    again.append(
                        ([max(side, key=lambda path: len(_job(path).passes)) for side in sides], len(sides[0]))
                    )
                    untimed |= set() if row["in_turn"] else set(paths) - ran
        if not again:
            return verdicts
        print(f"running {len(again)} cells again", file=sys.stderr, flush=True)
        start = 1 + int(known["round"].max())
        for number in range(max(count for _, count in again)):
            for sides, count in again:
                if number < count:
                    ran |= set(_run_both(sides, folders, start + number, number == 0, launcher))
    return compare(*_frames(folders, untimed), guard=guard, allow=allow, looks=LOOKS)


def _frames(folders: Sequence[Path], untimed: set[str]) -> list[DataFrame]:
    """The records of the folders, without the times of some files."""
    frames = [record.load(folder) for folder in folders]
    for frame in frames:
        frame.loc[frame["path"].isin(untimed), ["fastest_s", "first_s"]] = math.nan
    return frames


def _by_chance(statuses: Iterable[str]) -> bool:
    """Whether nothing worse came of these records than what may strike a process by chance."""
    seen = set(statuses)
    return bool(seen & set(TRANSIENT)) and seen <= {"ok", *TRANSIENT}


def _run_both(sides: Sequence[str], folders: Sequence[Path], number: int, whole: bool, launcher: Launcher) -> list[str]:
    """One more round of both sides of a cell, each like one of its records, whole or only timed; the new files."""
    both = list(zip(sides, folders, strict=True))
    random.Random(number).shuffle(both)
    ran = []
    for path, folder in both:
        job = _job(path)
        found = launcher.run(replace(job, round=number, passes=job.passes if whole else ("time",)), folder)
        before, now = record.read(Path(path)), record.read(found)
        changed = [
            name for name in ("method_hash", "torch") if now[name] is not None and before[name] not in (None, now[name])
        ]
        if changed:
            shutil.rmtree(found.parent)
            raise record.RecordError(
                f"{path}: its {' and '.join(changed)} changed since, so it cannot be run again; measure both sides in "
                "one run instead: python -m harness +sweep=nightly baseline=git:REF"
            )
        ran.append(str(found))
    return ran


def _job(path: str) -> Job:
    """The job beside a record."""
    file = Path(path).with_name("job.json")
    try:
        job = Job.from_dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise record.RecordError(
            f"{file} is no job: {error}; undecided cells can only be run again from run folders, with their job.json"
        ) from error
    if job.code is not None and not Path(job.code).is_dir():
        raise record.RecordError(
            f"{file}: the code that it ran, in {job.code}, is gone; give the sweep itself confirm_s, or raise rounds"
        )
    return job
