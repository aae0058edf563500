"""What is a record and what is none."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.record.identity import JSON
from harness.record.schema import DEEPEST, ENDS, FIELDS, LONGEST, OLDEST, SCHEMA_VERSION, SKETCH, STATUSES, Field

SHOWN = 60  # characters of a value in a message


class RecordError(ValueError):
    """A record, or a place where records were looked for, cannot be used; its text is one line that can be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text))


def plain(text: object) -> str:
    """Arbitrary text on one line: white space becomes single spaces, what cannot be printed its escape."""
    words = " ".join(str(text).split())
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def checked(content: bytes, where: str) -> dict[str, Any]:
    """The record that a file or a line holds; raises RecordError, which names it, where it holds none."""
    try:
        return _record(_DECODER.decode(content.decode("utf-8-sig")))  # some editors begin a file with a mark
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
    for name, is_allowed in _BY_NAME:
        held = value.get(name)
        if held is not None:
            if not is_allowed(held):
                field = next(field for field in FIELDS if field.name == name)
                raise ValueError(f"{name} should be {_must(field)}, found {_shown(held)}")
            if type(held) is str:
                held = sys.intern(held)  # records share most of their texts
        found[name] = held
    for name in JSON:
        if not _holds_options(found[name]):
            raise ValueError(f"{name} should be a JSON object as text, found {_shown(found[name])}")
    sketch = found["sketch"]
    if sketch is not None and len(sketch) != SKETCH:
        raise ValueError(f"sketch should be {SKETCH} numbers, found {len(sketch)}")
    return found


def are_records(columns: Mapping[str, Any]) -> bool:
    """Whether each row of these columns, a list for each field, is a record that `checked` would return."""
    if not all(isinstance(values, list) for values in columns.values()):
        return False
    sketches = [sketch for sketch in columns["sketch"] if sketch is not None]
    return (
        all(_are_allowed(columns[field.name], field, is_allowed) for field, is_allowed in CHECKS)
        and set(columns["schema_version"]) <= {*range(OLDEST, SCHEMA_VERSION + 1)}
        and set(columns["status"]) <= {*STATUSES}
        and all(_holds_options(text) for name in JSON for text in set(columns[name]))
        and all(len(sketch) == SKETCH for sketch in sketches)
    )


def _are_allowed(values: Sequence[Any], field: Field, is_allowed: Callable[[Any], bool]) -> bool:
    """Whether each value of a column is null or allowed; of texts, most of which are equal, each is looked at once."""
    different = set(values) if field.type == "str" else values
    return all(value is None or is_allowed(value) for value in different)


def _check(field: Field) -> Callable[[Any], bool]:
    """A check of a field's values: of its type, not too long, with numbers within its ends."""
    if field.type == "str":
        return lambda value: isinstance(value, str) and len(value) <= LONGEST
    if field.type == "bool":
        return lambda value: isinstance(value, bool)
    types = int if field.type == "int" else int | float
    least, most = _ends(field)

    def is_number(value: Any) -> bool:
        if type(value) is float and least <= value <= most:
            return types is not int
        of_type = isinstance(value, types) and not isinstance(value, bool)
        return of_type and (least <= value <= most or (value == 0 and not _is_timed(field)))

    def are_numbers(value: Any) -> bool:
        if not isinstance(value, list) or len(value) > LONGEST:
            return False
        if value and {*map(type, value)} <= {int, float} and least <= min(value) and max(value) <= most:
            return not math.isnan(sum(value))  # no comparison finds NaN
        return all(map(is_number, value))

    return are_numbers if field.type.startswith("list") else is_number


def _is_timed(field: Field) -> bool:
    """Whether a field lists what a clock measured: never 0."""
    return field.type.startswith("list") and field.unit == "s"


def _ends(field: Field) -> tuple[float, float]:
    """Of integers 63 bits (as floats they still fit into 64), of floats what can be squared."""
    return ENDS.get(field.unit, (-(2**62), 2**62 - 1) if field.type == "int" else (-1e150, 1e150))


CHECKS = tuple((field, _check(field)) for field in FIELDS)  # with null a field may have any value that its check allows
_BY_NAME = tuple((field.name, is_allowed) for field, is_allowed in CHECKS)


def _must(field: Field) -> str:
    if field.type in ("str", "bool"):
        return field.type
    least, most = _ends(field)
    zero = "" if _is_timed(field) else "0, or "
    return f"{field.type} ({zero}from {least:.4g} to {most:.4g})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


@functools.lru_cache(maxsize=1024)  # records have few options
def _holds_options(text: str | None) -> bool:
    """Whether a text is a JSON object that is not too deep; no text is one too."""
    try:
        held = options(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(held, dict) and _depth(held) <= DEEPEST


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def options(text: Any) -> dict[str, Any]:
    """Options as `problem_options` and `method_options` store them; none where the cell was never composed."""
    return json.loads(text) if isinstance(text, str) else {}
