"""The outcome of a cell after each of its passes: fields of the record, its status and its message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.job import Job
from harness.truth.timed_results import FRESH_CALL

Fields = dict[str, Any]  # of a record

STUCK = 30  # times the slowest sample: an unfinished call that has taken longer computes what the samples did not,
STUCK_S = 0.5  # if it has taken this at least: less may be a machine under load


def merged(job: Job, seen: Mapping[str, Any], part: str, fields: Mapping[str, Any]) -> Fields:
    """The fields of a cell, `seen` up to now, with those of a pass.

    Where the time limit strikes after the first call has been timed, the record lacks columns, and keeps its status.
    """
    status, message = fields["status"], fields.get("message")
    if status == "timeout":
        status, message = _timeout(job, seen["status"], part, fields)
    messages = [seen.get("message"), message]
    return {
        **seen,
        **fields,
        "status": status,
        "message": "; ".join(filter(None, messages)) or None,
        "worked_s": seen.get("worked_s", 0.0) + fields.get("worked_s", 0.0),
    }


def _timeout(job: Job, status: str, part: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """The status and message of a cell, with `status` up to now, after a pass that ran out of time."""
    message = fields["message"]
    timed = part == "time" and fields.get("times_s")
    if part == "time" and _is_stuck(job, fields):
        return "timeout", (
            f"{message}: the timed calls took {max(fields['times_s']):.1e} s, but one with other values in theta did "
            "not end, so that those looked up what had been computed before"
        )
    if part in ("exact", "peak", "process") or timed:
        return status, f"{message}, so not all its columns are filled; raise limit_s to have them"
    if part == "time" and fields.get("first_s") is not None:
        return status, f"{message} after the first call, whose time stands for all; raise limit_s to have more"
    remedy = "a smaller problem" if part == "reference" else "a smaller problem or a faster method"
    return "timeout", f"{message}; raise limit_s, or take {remedy}"


def _is_stuck(job: Job, fields: Mapping[str, Any]) -> bool:
    """Whether the time ran out in a call of the method at a fresh point that took far longer than any sample."""
    if fields.get("running") != FRESH_CALL:
        return False
    return job.limit_s - fields["worked_s"] > max(STUCK * max(fields["times_s"]), STUCK_S)
