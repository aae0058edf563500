"""More processes for the cells that a comparison leaves undecided, both sides in turn, before an alarm is raised."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pandas import DataFrame

from harness import record
from harness.compare.verdicts import GUARD, compare, in_turn
from harness.job import Job
from harness.launch import Launcher

LOOKS = 3  # the first, and two after more processes where it was undecided


def confirm(
    folders: Sequence[Path], launcher: Launcher, budget_s: float, guard: float = GUARD, allow: Collection[str] = ()
) -> DataFrame:
    """Verdicts on two run folders, baseline and candidate, to which undecided cells get as many processes again.

    At most LOOKS - 1 times, as long as `budget_s` lasts, by the time that the cells took before. Where the folders were
    not measured in turn, the new processes alone tell times. Raises RecordError where a cell's job is not beside its
    record, or what it ran is not there any more.
    """
    began = time.monotonic()
    folders = [folder.resolve() for folder in folders]  # as frames name their files
    apart = not in_turn(*map(record.load, folders))
    ran: set[str] = set()  # files of the new records
    untimed: set[str] = set()
    for _ in range(LOOKS - 1):
        verdicts = _judged(folders, untimed, guard, allow)
        again = []
        for _, row in verdicts[verdicts["verdict"] == "undecided"].iterrows():
            sides = row["base_paths"], row["candidate_paths"]
            cost = sum(_cost_s(path) for side in sides for path in side)
            if time.monotonic() - began + sum(other for _, other in again) + cost <= budget_s:
                again.append((sides, cost))
        if not again:
            return verdicts
        print(f"running {len(again)} undecided cells again", file=sys.stderr, flush=True)
        before = {path for sides, _ in again for side in sides for path in side} - ran
        start = 1 + max(_job(path).round for sides, _ in again for side in sides for path in side)
        for number in range(max(len(sides[0]) for sides, _ in again)):
            for sides, _ in again:
                if number < len(sides[0]):
                    ran |= set(_run_both(sides, start + number, folders, launcher))
        untimed |= before if apart else set()
    return _judged(folders, untimed, guard, allow)


def _judged(folders: Sequence[Path], untimed: set[str], guard: float, allow: Collection[str]) -> DataFrame:
    frames = [record.load(folder) for folder in folders]
    for frame in frames:
        frame.loc[frame["path"].isin(untimed), ["fastest_s", "first_s"]] = math.nan
    return compare(*frames, guard=guard, allow=allow, looks=LOOKS)


def _run_both(sides: Sequence[list[str]], number: int, folders: Sequence[Path], launcher: Launcher) -> list[str]:
    """One more process, of this round, of both sides of a cell, given by its records' files; the new ones' files."""
    both = list(zip((side[0] for side in sides), folders, strict=True))
    random.Random(number).shuffle(both)
    ran = []
    for path, folder in both:
        found = launcher.run(replace(_job(path), round=number, passes=("time",)), folder)
        before, now = record.read(Path(path)), record.read(found)
        changed = [name for name in ("method_hash", "torch") if before[name] not in (None, now[name])]
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


def _cost_s(path: str) -> float:
    """Seconds that a cell took."""
    return record.read(Path(path))["cell_s"] or 0.0
