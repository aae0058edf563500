"""Reads the job beside a record, which is to be run again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import record, trust
from harness.config import checked
from harness.job import Job, Measure


def read_job(file: Path) -> Job:
    """The job of a file job.json; raises RecordError where it holds none. What it names is not imported or started."""
    try:
        return _job(json.loads(record.content(file)))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise record.RecordError(
            f"{file} is no job: {why}; cells can only be run again from run folders, with their job.json"
        ) from error


def refuse_foreign(job: Job, file: Path) -> None:
    """Raise RecordError for the job of a file if it has another interpreter, code of its own, or foreign functions."""
    named = trust.foreign(job.problem_target, job.problem_options, job.target, job.method_options)
    named += [] if job.interpreter in (None, sys.executable) else [f"interpreter={job.interpreter}"]
    named += [] if job.code is None else [f"code={job.code}"]
    if named:
        raise record.RecordError(trust.advice(str(file), named))


def _job(values: Mapping[str, Any]) -> Job:
    """The job of the values in a file; raises ValueError, TypeError or KeyError where they are none."""
    checked(Job, {"processes": 1, **values, "code": None})  # an older job has one process; the folder may be gone
    Measure.from_config(values["measure"])
    job = Job.from_dict(values)
    texts = (job.problem, job.problem_target, job.method, job.target, job.code or "")
    if not all(isinstance(value, str) for value in texts):
        raise TypeError("its problem, its method, their functions and its code must be texts")
    if not all(isinstance(value, dict) for value in (job.problem_options, job.method_options)):
        raise TypeError("the options of its problem and of its method must be objects")
    return job
