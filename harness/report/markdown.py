"""table.md: the leaderboard and a line for each benchmark cell, for readers."""

from __future__ import annotations

from collections.abc import Collection

from pandas import DataFrame

from harness.analysis.emphasis import baseline_of
from harness.analysis.leaderboard import leaderboard
from harness.analysis.table import Analysis
from harness.report import leaderboard as board
from harness.report.accuracy import unranked
from harness.report.readable import NUMBERS, meanings, readable
from harness.text import counted, escaped

SHORT = 100  # characters of a message in a table
MOST = 5000  # lines of the table: no viewer of Markdown shows so many


def markdown(analysis: Analysis, baseline: str | None = None) -> str:
    """The leaderboard, where there are several methods, then a line for each benchmark cell with all its columns.

    `baseline` is the label of the method that the leaders are compared with (`harness.analysis.leaderboard`).
    """
    shown = readable(analysis)
    lines = shown.head(MOST).assign(message=shown["message"].head(MOST).map(shortened))
    rest = f"\n\nThe first {MOST} of {len(shown)} lines; table.csv has all." if len(shown) > MOST else ""
    return f"""{_leaderboard(analysis, baseline)}{_table(lines, NUMBERS)}{rest}

{escaped(analysis.environment)}; {counted(analysis.rows["status"])}.

{meanings(shown)}
"""


def _leaderboard(analysis: Analysis, baseline: str | None) -> str:
    leaders = leaderboard(analysis, baseline)
    if analysis.rows["label"].nunique() < 2:
        return ""
    compared = baseline_of(analysis, baseline)
    parts = []
    if leaders:
        parts += [_table(board.table(leaders, compared), board.NUMBERS), escaped(board.notes(leaders, compared))]
    parts += [escaped(sentence) for sentence in [unranked(analysis)] if sentence is not None]
    return "".join(f"{part}\n\n" for part in parts)


def _table(texts: DataFrame, numbers: Collection[str]) -> str:
    aligned = ["right" if column in numbers else "left" for column in texts.columns]
    return texts.map(escaped).to_markdown(index=False, disable_numparse=True, colalign=aligned)


def shortened(text: str) -> str:
    """At most SHORT characters."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
