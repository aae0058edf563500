"""What makes a benchmark cell: the one list from which reports, comparisons and trends take their columns.

Two records are of one cell where they agree in CELL. A test holds that each field of a job is in one of these lists or,
with the reason, in NO_PART.
"""

from __future__ import annotations

import json
from typing import Any

PROBLEM = ("problem", "problem_target", "problem_options")
METHOD = ("method", "target", "method_options")
# What was asked: which numbers are to come out, on what, within which memory.
ASKED = (
    *PROBLEM,
    *METHOD,
    "quantity",
    "vectors",
    "subset",
    "device",
    "dtype",
    "threads",
    "allocator",
    "seed",
    "memory_limit_gb",
)
# How it was sampled and judged. A comparison matches cells across these, unless one of its sides has several of them.
SAMPLED = ("limit_s", "measure")
# Whose code ran it: in these the two sides of a comparison differ.
RAN_BY = ("interpreter", "code")
# What it ran on, which may change from night to night. `machine` is the GPU, or else the CPU with its cores.
ENVIRONMENT = ("torch", "packages", "machine")
CELL = (*ASKED, *RAN_BY, *ENVIRONMENT, *SAMPLED)
# Fields of a job in which records of one cell may differ, and why.
NO_PART = {
    "round": "counts the processes of a cell",
    "passes": "says what was measured of it: after the first round often only the time",
}
JSON = ("problem_options", "method_options", "measure")  # columns that hold JSON as text


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
