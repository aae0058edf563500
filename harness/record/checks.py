"""What is a record and what is none."""

from __future__ import annotations

import json
from typing import Any

from harness.record.schema import DEEPEST, ENDS, FIELDS, LONGEST, NAMES, OLDEST, SCHEMA_VERSION, SKETCH, STATUSES, Field

SHOWN = 60  # characters of a value in a message


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
        if not is_value(value.get(field.name), field):
            raise ValueError(f"{field.name} should be {_must(field)}, found {_shown(value[field.name])}")
    for name in ("problem_options", "method_options"):
        held = options(value.get(name))
        if not isinstance(held, dict) or _depth(held) > DEEPEST:
            raise ValueError(f"{name} should be a JSON object as text, found {value[name]!r:.60}")
    sketch = value.get("sketch")
    if sketch is not None and len(sketch) != SKETCH:
        raise ValueError(f"sketch should be {SKETCH} numbers, found {len(sketch)}")
    return {name: value.get(name) for name in NAMES}


def is_value(value: Any, field: Field) -> bool:
    """Whether a field may have a value: null, or one of its type and not too long, with numbers within its ends."""
    if value is None:
        return True
    if field.type.startswith("list"):
        return isinstance(value, list) and len(value) <= LONGEST and all(_is_number(entry, field) for entry in value)
    if field.type == "str":
        return isinstance(value, str) and len(value) <= LONGEST
    if field.type == "bool":
        return isinstance(value, bool)
    return _is_number(value, field)


def _is_number(value: Any, field: Field) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if field.type == "int" else int | float):
        return False
    least, most = _ends(field)
    return least <= value <= most or value == 0


def _ends(field: Field) -> tuple[float, float]:
    """Of integers 63 bits (as floats they still fit into 64), of floats what can be squared."""
    return ENDS.get(field.unit, (-(2**62), 2**62 - 1) if field.type == "int" else (-1e150, 1e150))


def _must(field: Field) -> str:
    if field.type in ("str", "bool"):
        return f"{field.type}"
    least, most = _ends(field)
    return f"{field.type} (0, or from {least:.4g} to {most:.4g})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def options(text: Any) -> dict[str, Any]:
    """Options as `problem_options` and `method_options` store them; none where the cell was never composed."""
    return json.loads(text) if isinstance(text, str) else {}
