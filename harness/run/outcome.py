"""The outcome of a pass, and of a cell after each of its passes: fields of the record, its status and its message."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.run import processes, written
from harness.run.several import named
from harness.truth.timed_results import FRESH_CALL

Fields = dict[str, Any]  # of a record

STILL_RUNNING = "still running at the end of"
STUCK = 30  # times the slowest sample: an unfinished call that has taken longer computes what the samples did not,
STUCK_S = 0.5  # if it has taken this at least: less may be a machine under load


def of_pass(
    part: str, limit_s: float, answer: Mapping[str, Any] | None, seen: Mapping[str, Any], log: Path, ranks: int = 1
) -> Fields:
    """The fields of a pass: those that it has written, with a status and a message where it did not end by itself.

    `answer` is that of the server, or None where it did not answer. `log` is the file of what the pass has printed, in
    one process or in several `ranks`. `left_running` is a message, where there were such processes.
    """
    fields = dict(seen)
    if answer is None or "ended" in answer:
        return fields | {"status": "crashed", "message": _without_server(part, answer)}
    if answer["changed"]:
        return fields | {"status": "crashed", "message": _changed(part, answer["changed"])}
    if "status" not in fields:
        fields |= _cut_off(part, limit_s, answer, log, ranks)
    if answer["left_running"]:
        fields["left_running"] = _left_running(part, answer["left_running"])
    return fields


def _without_server(part: str, answer: Mapping[str, Any] | None) -> str:
    ended = "did not answer, as if it were stopped" if answer is None else answer["ended"]
    return f"{part} pass: the harness's server process {ended}, by the method if not by the system or a user"


def _changed(part: str, names: str) -> str:
    return f"{part} pass: the harness's server process was changed ({names}), by the method if not by a user"


def _cut_off(part: str, limit_s: float, answer: Mapping[str, Any], log: Path, ranks: int) -> Fields:
    """The status and message of a pass whose process ended without a result."""
    if answer["timed_out"]:
        message = f"the {part} pass took longer than limit_s={limit_s:g}"
        if ranks > 1:
            message += f", {_waiting(answer['behind'], ranks)}"
        if answer["unkillable"]:
            message += ", and its process cannot be killed: it waits in the system, as for a driver, and is left behind"
        return {"status": "timeout", "message": message}
    who = f"the {part} pass" if ranks == 1 else f"{named(answer['rank'], ranks)} of the {part} pass"
    last_line = written.last_line(log)
    last = f"; it last printed: {last_line[:300]}" if last_line else ""
    if answer["out_of_memory"]:
        killed = f"{who} was killed by the system (SIGKILL), since memory ran out"
        return {"status": "oom", "message": killed + last}
    how = f"exit status {answer['exit_code']}"
    if answer["signal"] is not None:
        how = f"signal {processes.signal_name(answer['signal'])}"
    if answer["signal"] == signal.SIGKILL:
        how += ", which the harness did not send"
    return {"status": "crashed", "message": f"{who} ended with {how}, without a result{last}"}


def _waiting(behind: Sequence[int], ranks: int) -> str:
    """For which ranks of a pass the others waited, as far as it is known."""
    if not behind:
        return "with no rank known to be behind the others"
    return f"while {' and '.join(named(rank, ranks) for rank in behind)} had not come as far as the others"


def _left_running(part: str, count: int) -> str:
    were = "1 process was" if count == 1 else f"{count} processes were"
    return f"{were} {STILL_RUNNING} the {part} pass, and killed"


def merged(job: Job, seen: Mapping[str, Any], part: str, fields: Mapping[str, Any]) -> Fields:
    """The fields of a cell, `seen` up to now, with those of a pass.

    Where the time limit strikes after the first call has been timed, the record lacks columns, and keeps its status.
    What was left running is reported of the first pass only.
    """
    fields = dict(fields)
    before, left_running = seen.get("message"), fields.pop("left_running", None)
    status, message = fields["status"], fields.get("message")
    if status == "timeout":
        status, message = _timeout(job, seen["status"], part, fields)
    if STILL_RUNNING in (before or ""):
        left_running = None
    return {
        **seen,
        **fields,
        "status": status,
        "message": "; ".join(filter(None, [before, message, left_running])) or None,
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
    if fields.get("running") != FRESH_CALL or not fields.get("times_s"):
        return False
    return job.limit_s - fields.get("worked_s", 0.0) > max(STUCK * max(fields["times_s"]), STUCK_S)
