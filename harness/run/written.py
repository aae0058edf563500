"""What a pass has left in files, read with care: a method that runs in the pass can have replaced them by anything."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.record.checks import checked
from harness.record.schema import SKETCH


class TamperedError(ValueError):
    """The file of a result holds what no pass writes."""


def last_line(log: Path) -> str | None:
    """The last line of a log; None where it is empty or cannot be read."""
    try:
        printed = record.content(log, os.O_NOFOLLOW).decode(errors="replace").strip().splitlines()
    except OSError:
        return None
    return printed[-1] if printed else None


def remove(path: Path) -> None:
    """Remove whatever is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def fields(path: Path, job: Job) -> dict[str, Any]:
    """The fields that a pass of a job has written, without those that are null; none where there is nothing.

    Raises TamperedError where the file is no result: no JSON object, or with fields that are the job's, that nobody
    knows, or that have another type than a record's.
    """
    if not os.path.lexists(path):
        return {}
    try:
        seen = json.loads(record.content(path, os.O_NOFOLLOW))
        _require_fields(seen, job)
    except OSError as error:
        raise TamperedError(str(error.strerror)) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TamperedError("it is not JSON") from error
    except ValueError as error:
        raise TamperedError(record.plain(error)) from error
    return {name: value for name, value in seen.items() if value is not None}


def _require_fields(seen: Any, job: Job) -> None:
    """Raise ValueError where a JSON value is not the fields of a pass."""
    if not isinstance(seen, dict):
        raise ValueError(f"it holds {type(seen).__name__}, not an object")
    known = {*record.NAMES, *PASSED_ON} - {*job.fields()}
    foreign = [name for name in seen if name not in known]
    if foreign:
        raise ValueError(f"it holds {foreign[0]!r:.60}, which no pass writes")
    for name, is_right in PASSED_ON.items():
        if seen.get(name) is not None and not is_right(seen[name]):
            raise ValueError(f"{name} is {seen[name]!r:.60}")
    stored = {name: value for name, value in seen.items() if name not in PASSED_ON}
    complete = {"status": "ok"} | stored | {"schema_version": record.SCHEMA_VERSION}
    checked(json.dumps(complete).encode(), "the result")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_numbers(value: Any) -> bool:
    """Whether a value is a list of finite numbers, perhaps with None for others; JSON has NaN and vast integers too."""
    return isinstance(value, list) and all(entry is None or _is_finite(entry) for entry in value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _are_of_a_result(value: Any) -> bool:
    """Whether a value is what `harness.truth.sketch.bilinear` gives of a result."""
    return _are_numbers(value) and len(value) == SKETCH


def _is_unwritten(value: Any) -> bool:
    """Whether a value is the arguments of a StorageError."""
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], int | None) and _are_texts(value[1:])


def _is_timed(value: Any) -> bool:
    """Whether a value is what `harness.truth.result_recorder` writes, perhaps with a fault."""
    if not isinstance(value, dict):
        return False
    numbers = {name: entry for name, entry in value.items() if name != "fault"}
    fault = value.get("fault")
    if not numbers:
        return fault is None or _is_fault(fault)
    return (
        {*numbers} == {"first", "last", "products"}
        and _are_of_a_result(numbers["first"])
        and _are_of_a_result(numbers["last"])
        and _are_numbers(numbers["products"])
        and (fault is None or _is_fault(fault))
    )


def _is_fault(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and {*value} == {"status", "message"}
        and value["status"] in record.STATUSES
        and isinstance(value["message"], str)
    )


def _is_checked(value: Any) -> bool:
    """Whether a value is what the agreement pass writes of its result."""
    return (
        isinstance(value, dict)
        and {*value} == {"numbers", "size"}
        and _are_of_a_result(value["numbers"])
        and None not in value["numbers"]
        and (value["size"] is None or _is_finite(value["size"]))
    )


# What a pass writes for the harness alone, and what it must be: no fields of the record.
PASSED_ON: dict[str, Callable[[Any], bool]] = {
    "unwritten": _is_unwritten,
    "running": lambda value: isinstance(value, str),
    "timed": _is_timed,
    "checked": _is_checked,
    "asks": _are_texts,
    "builder_options": lambda value: isinstance(value, dict),
}
