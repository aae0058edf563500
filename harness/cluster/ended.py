"""Decides of cells that ended with their job what is recorded, or whether they run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import record
from harness.cluster.scheduler import State
from harness.compare.baseline import Measured
from harness.run.folders import claim, folders_of

TRIES = 3  # jobs that may end while the same cell runs


def verdict(state: State, job: str, memory: str | None, alone: bool, attempt: int) -> tuple[str, str] | None:
    """The status and message of the cell that ran when a job ended; None where it is to run again.

    `memory` are Slurm's words where it ended the job for its memory. `alone` says whether the job has run no other
    cell, `attempt` how many jobs have ended while the cell ran, this one included.

    A job's time and memory are a cell's own only where it ran alone: with cgroups Slurm has the state and the words of
    memory for a job in which a process of any cell was killed, though that cell may be recorded.
    """
    if alone and (memory is not None or state.name == "OUT_OF_MEMORY"):
        words = f"{state}{'' if memory is None else f': {memory}'}"
        return "oom", (
            f"Slurm ended job {job} for its memory while the cell ran ({words}); raise launcher.memory_gb, or set "
            "memory_limit_gb, which ends the cell alone"
        )
    if alone and state.name == "TIMEOUT":
        return out_of_time(job, str(state))
    if attempt >= TRIES and state.name != "CANCELLED":  # by a user, through no fault of the cell
        return lost(attempt, f"the last, {job}, with {state}")
    return None


def out_of_time(job: str, how: str) -> tuple[str, str]:
    """Status and message of a cell for which the time of a whole job was too short."""
    return "timeout", (
        f"the cell took longer than a job of its own may ({job}: {how}); raise launcher.time_min, or take a smaller "
        "problem or a faster method"
    )


def lost(jobs: int, last: str) -> tuple[str, str]:
    """Status and message of a cell with which too many jobs have ended."""
    return "crashed", f"{jobs} jobs ended while the cell ran, {last}; the files in slurm/ hold what they printed"


def store(cell: Measured, run: Path, status: str, message: str, fields: Mapping[str, Any]) -> Path:
    """Record a cell that ended with its job, with further fields, in the folder where it began; the record's file."""
    output = run / cell.folder
    begun = [folder for folder in folders_of(output, cell.job.key) if not _is_final(folder / "record.json")]
    folder = begun[-1] if begun else claim(output, cell.job.key)
    job = folder / "job.json"
    began = datetime.fromtimestamp(job.stat().st_mtime if job.exists() else folder.stat().st_mtime, UTC)
    if not job.exists():
        record.write_json(json.loads(json.dumps(asdict(cell.job))), job)
    found = {"status": status, "message": message, "started": began.isoformat(timespec="seconds"), "look": 0}
    record.write(cell.job.fields() | {"attempt": 1} | dict(fields) | found, folder / "record.json")
    return folder / "record.json"


def _is_final(path: Path) -> bool:
    """Whether there is a record that does not only say that the first run of a cell, which is run twice, crashed."""
    try:
        seen = record.read(path)
    except record.RecordError:
        return path.exists()
    return (seen["status"], seen["attempt"]) != ("crashed", 1)
