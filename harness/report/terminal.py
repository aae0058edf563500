"""The table on the terminal, and what to know about it."""

from __future__ import annotations

from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.coverage import outcomes, totals
from harness.analysis.table import Analysis
from harness.report.readable import CONTENDED, GROUPS, NUMBERS, readable
from harness.report.summary import summary

STYLES = {"ok": "green", "wrong": "bold red", "nonfinite": "bold red", "unsupported": "yellow", "timeout": "magenta"}
OTHER_STYLE = "red"
MANY = 1000  # rows from which on the terminal shows totals only
BRIEF = 4  # sentences of each section of the summary on the terminal


def terminal(analysis: Analysis, console: Console | None = None) -> None:
    """Print the table, then the messages: a single record's in full, else a line for those that differ only in numbers.

    Of more than 1,000 rows on several problems only the outcomes are counted. What is the same in every row stands
    above the table; a failure's status stands for its time, a dash for the other numbers. Without a console, standard
    output is written to: 120 columns wide where it is no terminal.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if len(analysis.frame) > MANY and analysis.frame["problem_name"].nunique() > 1:
        _print_totals(analysis, console)
        _print_summary(analysis, console)
        return
    shown = readable(analysis)
    message = shown.pop("message")
    same = [heading for heading in GROUPS.values() if heading != "method" and len(set(shown[heading]) - {"?"}) < 2]
    title = ", ".join(f"P={shown[name].iloc[0]}" if name == "P" else shown[name].iloc[0] for name in same)
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    columns = [column for column in shown.columns if column not in same]
    for column in columns:
        wraps = column in ("method", "problem")
        table.add_column(
            column.replace(" ", "\n"),
            justify="right" if column in NUMBERS else "left",
            no_wrap=not wraps,
            overflow="fold",
            min_width=min(16, shown[column].str.len().max()) if wraps else None,
        )
    for _, row in shown.iterrows():
        style = STYLES.get(row["status"], OTHER_STYLE)
        failed = {column for column in NUMBERS.intersection(columns) - {"time"} if row[column] == row["status"]}
        cells = ("-" if column in failed else row[column] for column in columns)
        table.add_row(*(Text(cell, style if cell == row["status"] else "") for cell in cells))
    console.print(table)
    console.print(Text(analysis.environment, "dim"))
    if shown["time"].str.endswith(CONTENDED).any():
        console.print("* measured under contention: another process wanted the processor")
    _print_messages(shown, message, console)
    if len(shown) > 1:
        _print_summary(analysis, console)


def _print_totals(analysis: Analysis, console: Console) -> None:
    counts = totals(outcomes(analysis)).T
    title = f"{len(analysis.frame)} rows on {analysis.frame['problem_name'].nunique()} problems"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("method", overflow="fold")
    for outcome in counts.columns:
        table.add_column(outcome, justify="right")
    for method, row in counts.iterrows():
        table.add_row(Text(str(method)), *(f"{count:.0f}" for count in row))
    console.print(table)
    console.print(Text(analysis.environment, "dim"))


def _print_summary(analysis: Analysis, console: Console) -> None:
    """Who won and what was silently wrong; what failed and where it ran stand with the table."""
    for section in summary(analysis):
        if section.title in ("Fastest", "Silently wrong"):
            more = len(section.sentences) - BRIEF
            console.print(Text(section.title, "bold"))
            for sentence in section.sentences[:BRIEF]:
                console.print(Text(sentence))
            if more > 0:
                console.print(Text(f"and {more} more (--out DIR writes all of them)", "dim"))


def _print_messages(shown: DataFrame, message: Series, console: Console) -> None:
    if len(shown) == 1:
        if message.iloc[0]:
            console.print(Text(message.iloc[0]))
        return
    said = shown.assign(message=message, words=message.str.replace("[^A-Za-z ]", "", regex=True))[message != ""]
    for (method, status, _), rows in said.groupby(["method", "status", "words"], sort=False):
        times = f" ({len(rows)} rows)" if len(rows) > 1 else ""
        style = STYLES.get(str(status), OTHER_STYLE)
        line = Text.assemble(f"{method} ", (str(status), style), f"{times}: {rows['message'].iloc[0]}")
        console.print(line, no_wrap=True, overflow="ellipsis")
