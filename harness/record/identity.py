"""What makes a benchmark cell: the lists of columns by which reports, comparisons and trends group records.

Two records are of one cell if they agree in CELL. Every list comes from the `part` of the schema's fields.
"""

from __future__ import annotations

import json
from typing import Any

from harness.record.schema import FIELDS


def fields_of(*parts: str) -> tuple[str, ...]:
    """Names of the fields with one of these parts (of `schema.PARTS`), part by part, in the order of the schema."""
    return tuple(field.name for part in parts for field in FIELDS if field.part == part)


PROBLEM = fields_of("problem")
METHOD = fields_of("method")
ASKED = fields_of("problem", "method", "setting")  # a comparison matches cells that agree in these
SAMPLED = fields_of("sampling")  # and in these only if the baseline or the candidate has several of them
RAN_BY = fields_of("code")
MACHINE = fields_of("machine")
PROCESS = fields_of("process")  # records of one cell may differ in these
# Changes from one nightly run to the next. The column `machine` is the GPU, or else the CPU with its cores.
ENVIRONMENT = (*fields_of("versions"), "machine")
CELL = (*ASKED, *RAN_BY, *ENVIRONMENT, *SAMPLED)
JSON = tuple(field.name for field in FIELDS if field.unit == "JSON")  # columns that hold JSON as text


def canonical(column: str, value: Any) -> str:
    """The same text for the same value, whatever its type in a frame; of JSON, whatever the order of its keys."""
    import pandas

    if isinstance(value, str):
        return ordered(value) if column in JSON else value
    if pandas.isna(value):
        return "none"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def ordered(text: str) -> str:
    """A JSON text with the keys of its objects in order; any other text as it is."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text
