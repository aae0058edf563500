"""table.md: a line for each benchmark cell, for readers."""

from __future__ import annotations

from harness.analysis.table import Analysis
from harness.report.readable import NUMBERS, meanings, readable
from harness.text import counted, escaped

SHORT = 100  # characters of a message in a table


def markdown(analysis: Analysis) -> str:
    """A table with a line a record, and what all of them share below it."""
    shown = readable(analysis)
    shown["message"] = shown["message"].map(shortened)
    aligned = ["right" if column in NUMBERS else "left" for column in shown.columns]
    table = shown.map(escaped).to_markdown(index=False, disable_numparse=True, colalign=aligned)
    return f"""{table}

{escaped(analysis.environment)}; {counted(analysis.rows["status"])}.

{meanings(shown)}
"""


def shortened(text: str) -> str:
    """At most SHORT characters."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
