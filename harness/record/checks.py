"""What is a record and what is none."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from harness.record.schema import DEEPEST, FIELDS, OLDEST, SCHEMA_VERSION, SKETCH, STATUSES


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
        return _record(_DECODER.decode(content.decode()))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} is no record: {error}") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refused)


def _record(value: Any) -> dict[str, Any]:
    """The fields of this schema in a JSON value; raises ValueError where it is no record."""
    schema = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
    if not isinstance(schema, int) or schema not in range(OLDEST, SCHEMA_VERSION + 1):
        raise ValueError(f"schemas {OLDEST} to {SCHEMA_VERSION} are read, found schema {schema!r:.60}")
    if value.get("status") not in STATUSES:
        raise ValueError(f"its status is {value.get('status')!r:.60}; known are {', '.join(STATUSES)}")
    found = {}
    for name, kind, is_of_kind in _CHECKS:
        held = value.get(name)
        if held is not None and not is_of_kind(held):
            raise ValueError(f"{name} should be {kind}, found {held!r:.60}")
        found[name] = sys.intern(held) if isinstance(held, str) else held  # records share most of their texts
    for name in ("problem_options", "method_options"):
        if not _holds_options(found[name]):
            raise ValueError(f"{name} should be a JSON object as text, found {found[name]!r:.60}")
    sketch = found["sketch"]
    if sketch is not None and (len(sketch) != SKETCH or None in sketch):
        raise ValueError(f"sketch should be {SKETCH} numbers, found {len(sketch) - sketch.count(None)}")
    return found


def _is_int(value: Any) -> bool:
    """Whether a value is an integer of 63 bits: as a float it still fits into 64."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**62) <= value < 2**62


def _is_float(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_list(value: Any) -> bool:
    """Whether a value is a list of finite numbers and nulls."""
    return isinstance(value, list) and all(entry is None or _is_float(entry) for entry in value)


_OF_KIND: dict[str, Callable[[Any], bool]] = {  # by the type of a field; null is of every type
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_int,
    "float": _is_float,
    "list[float]": _is_list,
}
_CHECKS = tuple((field.name, field.type, _OF_KIND[field.type]) for field in FIELDS)


@functools.lru_cache(maxsize=1024)  # records have few options
def _holds_options(text: str | None) -> bool:
    """Whether a text is a JSON object that is not too deep; no text is one too."""
    held = options(text)
    return isinstance(held, dict) and _depth(held) <= DEEPEST


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def options(text: Any) -> dict[str, Any]:
    """Options as `problem_options` and `method_options` store them; none where the cell was never composed."""
    return json.loads(text) if isinstance(text, str) else {}
