"""More processes for the cells that a comparison leaves undecided, both sides in turn, before an alarm is raised."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pandas
from pandas import DataFrame

from harness import record
from harness.compare.verdicts import GUARD, LOOKS, compare
from harness.job import Job
from harness.launch import Launcher


def confirm(
    folders: Sequence[Path], launcher: Launcher, budget_s: float, guard: float = GUARD, allow: Collection[str] = ()
) -> DataFrame:
    """Verdicts on two run folders, baseline and candidate, to which undecided cells get as many processes again.

    At most LOOKS - 1 times, as long as `budget_s` lasts, by the time that the cells took before. Raises RecordError
    where a cell's job is not beside its record.
    """
    began = time.monotonic()
    for _ in range(LOOKS - 1):
        verdicts = compare(*map(record.load, folders), guard=guard, allow=allow)
        undecided = verdicts[verdicts["verdict"] == "undecided"]
        again = []
        for _, row in undecided.iterrows():
            jobs = [[_job(path) for path in row[f"{side}_paths"]] for side in ("base", "candidate")]
            cost = _cost_s([*row["base_paths"], *row["candidate_paths"]])
            if time.monotonic() - began + sum(other for _, other in again) + cost <= budget_s:
                again.append((jobs, cost))
        if not again:
            return verdicts
        print(f"running {len(again)} undecided cells again", file=sys.stderr, flush=True)
        for number in range(max(len(jobs[0]) for jobs, _ in again)):
            for jobs, _ in again:
                _run_both(jobs, number, folders, launcher)
    return compare(*map(record.load, folders), guard=guard, allow=allow)


def _run_both(jobs: list[list[Job]], number: int, folders: Sequence[Path], launcher: Launcher) -> None:
    if number >= len(jobs[0]):
        return
    start = 1 + max(job.round for side in jobs for job in side)
    sides = list(zip((side[0] for side in jobs), folders, strict=True))
    random.Random(number).shuffle(sides)
    for job, folder in sides:
        launcher.run(replace(job, round=start + number, passes=("time",)), folder)


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


def _cost_s(paths: list[str]) -> float:
    """Seconds that the cells of some records took."""
    return float(pandas.Series([record.read(Path(path))["cell_s"] or 0.0 for path in paths]).sum())
