"""What is a record and what is none."""

from __future__ import annotations

import json
import sys
from typing import Any

from harness.record.schema import DEEPEST, FIELDS, NAMES, OLDEST, SCHEMA_VERSION, SKETCH, STATUSES


class RecordError(ValueError):
    """A record, or a place where records were looked for, cannot be used; its text is one line that can be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text))


def plain(text: object) -> str:
    """Arbitrary text on one line: white space becomes single spaces, what cannot be printed its escape."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def checked(content: bytes, where: str) -> dict[str, Any]:
    """The record that a file or a line holds; raises RecordError, which names it, where it holds none."""
    try:
        return _record(json.loads(content.decode(), parse_constant=_refused))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} is no record: {error}") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _record(value: Any) -> dict[str, Any]:
    """The fields of this schema in a JSON value; raises ValueError where it is no record."""
    found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
    if not isinstance(found, int) or found not in range(OLDEST, SCHEMA_VERSION + 1):
        raise ValueError(f"schemas {OLDEST} to {SCHEMA_VERSION} are read, found schema {found!r:.60}")
    if value.get("status") not in STATUSES:
        raise ValueError(f"its status is {value.get('status')!r:.60}; known are {', '.join(STATUSES)}")
    for field in FIELDS:
        if not _is(value.get(field.name), field.type):
            raise ValueError(f"{field.name} should be {field.type}, found {value[field.name]!r:.60}")
    for name in ("problem_options", "method_options"):
        held = options(value.get(name))
        if not isinstance(held, dict) or _depth(held) > DEEPEST:
            raise ValueError(f"{name} should be a JSON object as text, found {value[name]!r:.60}")
    sketch = value.get("sketch")
    if sketch is not None and (len(sketch) != SKETCH or None in sketch):
        raise ValueError(f"sketch should be {SKETCH} numbers, found {len(sketch) - sketch.count(None)}")
    return {name: value.get(name) for name in NAMES}


def _is(value: Any, kind: str) -> bool:
    """Whether a value is null or of a type: integers of 63 bits (as floats they still fit into 64), finite floats."""
    if value is None:
        return True
    if kind.startswith("list"):
        return isinstance(value, list) and all(_is(entry, "float") for entry in value)
    if kind in ("str", "bool"):
        return isinstance(value, {"str": str, "bool": bool}[kind])
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else int | float):
        return False
    return -(2**62) <= value < 2**62 if kind == "int" else abs(value) <= sys.float_info.max


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def options(text: Any) -> dict[str, Any]:
    """Options as `problem_options` and `method_options` store them; none where the cell was never composed."""
    return json.loads(text) if isinstance(text, str) else {}
