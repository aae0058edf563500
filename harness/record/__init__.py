"""The record of one cell: its schema, its file, and loading many of them into one table.

A record is one flat JSON object in a file `record.json`, written whole or not at all. It holds what was
asked and what was seen; medians, ratios and multiples are derived by `load` and never stored.

`python -m harness.record RUN... > results/baselines/NAME.jsonl` makes a baseline file, one record a line.
"""

from harness.record.checks import RecordError, plain
from harness.record.files import (
    SIDES,
    StorageError,
    content,
    read,
    storable,
    storing,
    write,
    write_bytes,
    write_json,
    write_text,
)
from harness.record.frame import left_out, load, remarks
from harness.record.places import records
from harness.record.schema import (
    COUNTERS,
    DERIVED,
    FIELDS,
    NAMES,
    OLDEST,
    SCHEMA_VERSION,
    SKETCH,
    STATUSES,
    Field,
)

__all__ = [
    "COUNTERS",
    "DERIVED",
    "FIELDS",
    "NAMES",
    "OLDEST",
    "SCHEMA_VERSION",
    "SIDES",
    "SKETCH",
    "STATUSES",
    "Field",
    "RecordError",
    "StorageError",
    "content",
    "left_out",
    "load",
    "plain",
    "read",
    "records",
    "remarks",
    "storable",
    "storing",
    "write",
    "write_bytes",
    "write_json",
    "write_text",
]
