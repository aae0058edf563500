"""What the terminal shows of a run: the leaderboard, the table, and what to know about both."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.coverage import outcomes, totals
from harness.analysis.emphasis import baseline_of
from harness.analysis.leaderboard import leaderboard
from harness.analysis.table import Analysis
from harness.analysis.versions import Change, versions
from harness.report import leaderboard as board
from harness.report.accuracy import unranked
from harness.report.layout import print_sections, print_table, widths
from harness.report.readable import CONTENDED, GROUPS, MAIN, NUMBERS, OF_ESTIMATES, asked, columns_of, readable
from harness.report.summary import WRONG, summary
from harness.report.versions import left_out, table
from harness.text import listed

STYLES = {"ok": "green", "wrong": "bold red", "nonfinite": "bold red", "unsupported": "yellow", "timeout": "magenta"}
OTHER_STYLE = "red"
MANY = 1000  # rows from which on the terminal shows totals only
BRIEF = 4  # sentences on what is silently wrong
LEADERS = 20  # lines of the leaderboard
WRITTEN = "(--out DIR writes all of them)"
FOLDING = {"method", "problem", "status"}


def terminal(
    analysis: Analysis, console: Console | None = None, columns: str | None = None, baseline: str | None = None
) -> None:
    """Print the leaderboard, the table and the messages.

    A single record's message is printed in full, else a line for those that differ only in numbers. The leaderboard is
    left out for a single method. The table has few columns, unless `columns` lists headings, separated by commas, or is
    "all"; raises ValueError for a heading that the table has not. Of more than 1,000 rows on several problems, only the
    outcomes are counted. Without a console, standard output is written to: 120 columns wide where it is no terminal.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    every = readable(analysis)
    shown, message = every.drop(columns="message"), every["message"]
    headings = columns_of(shown, columns) if columns else None
    if analysis.rows["label"].nunique() > 1:
        _print_leaderboard(analysis, baseline, console)
        _print_unranked(analysis, console)
    if headings is None and len(analysis.frame) > MANY and analysis.frame["problem_name"].nunique() > 1:
        _print_totals(analysis, console)
    else:
        _print_rows(shown, headings, console)
        console.print(Text(analysis.environment, "dim"))
        if shown["time"].str.endswith(CONTENDED).any():
            console.print("* measured under contention: another process wanted the processor, or the GPU throttled")
        _print_messages(shown, message, console)
    if len(shown) > 1:
        _print_wrong(analysis, console)
        _print_versions(analysis, console)


def captured(analysis: Analysis, columns: str | None = None, baseline: str | None = None) -> str:
    """What `terminal` prints of an analysis, with the colours of standard output, to be printed later."""
    console = Console()
    with console.capture() as printed:
        terminal(analysis, console, columns, baseline)
    return printed.get()


def _print_unranked(analysis: Analysis, console: Console) -> None:
    sentence = unranked(analysis)
    if sentence is not None:
        console.print(Text(sentence, "dim"))


def _print_leaderboard(analysis: Analysis, baseline: str | None, console: Console) -> None:
    """A line for each leader; problems are titles of sections where that saves lines, else a column."""
    leaders = leaderboard(analysis, baseline)
    if not leaders:
        return
    texts = board.table(leaders[:LEADERS], baseline_of(analysis, baseline), most_wrong=1).drop(columns=board.INTERVAL)
    console.print(Text("Fastest right method", "bold"))
    filled = [column for column in texts if column == "problem" or not texts[column].isin(["", "-"]).all()]
    texts = texts[filled]
    several = texts["problem"].nunique() < len(texts)
    titles = texts.pop("problem") if several else texts["problem"]
    fitted = widths(texts, set(texts.columns) - board.NUMBERS, console.width)
    if several:
        print_sections(console, texts, titles, fitted, board.NUMBERS)
    else:
        print_table(console, texts, fitted, board.NUMBERS)
    if len(leaders) > LEADERS:
        console.print(Text(f"and {len(leaders) - LEADERS} more {WRITTEN}", "dim"))
    console.print(Text(board.notes(leaders, baseline_of(analysis, baseline)), "dim"))
    console.print()


def _print_rows(shown: DataFrame, headings: list[str] | None, console: Console) -> None:
    """The table; with the default columns, a section for each value of what differs and has no column."""
    telling = [heading for heading in asked(shown) if heading != "rounds"]
    differing = [heading for heading in telling if shown[heading].loc[shown[heading] != "?"].nunique() > 1]
    name = "problem" if "problem" in differing and "method" not in differing else "method"
    stated = [heading for heading in OF_ESTIMATES if heading in shown]
    columns = headings or [*(["P"] if "P" in differing else []), name, *MAIN, *stated]
    same = [heading for heading in telling if heading not in (*differing, *columns)]
    sections = [heading for heading in differing if heading not in columns] if headings is None else []
    console.print(Text(_title(shown, same), "italic"))
    texts = DataFrame({column: _dashed(shown, column) for column in columns})
    fitted = widths(texts, FOLDING, console.width)
    if sections:
        titles = shown.apply(lambda row: _title(row.to_frame().T, sections), axis=1)
        print_sections(console, texts, titles, fitted, NUMBERS, _style)
    else:
        print_table(console, texts, fitted, NUMBERS, _style)


def _title(rows: DataFrame, headings: list[str]) -> str:
    """The values that these rows share: `mlp, P=517, threads 2`."""
    parts = []
    for heading in headings:
        known = rows.loc[rows[heading] != "?", heading]
        value = known.iloc[0] if len(known) else "?"
        prefix = "P=" if heading == "P" else f"{heading} "
        speaks_for_itself = heading in GROUPS.values() and heading != "P"
        parts.append(value if speaks_for_itself else prefix + value)
    return ", ".join(parts)


def _dashed(shown: DataFrame, column: str) -> Series:
    """A column's texts, with a dash for a number that a failure has not; times end in line where some have a star."""
    texts = shown[column]
    if column not in NUMBERS:
        return texts
    texts = texts.where(texts != shown["status"].str.split(",").str[0], "-")
    if texts.str.endswith(CONTENDED).any():
        texts = texts.where(texts.str.endswith(CONTENDED), texts + " " * len(CONTENDED))
    return texts


def _style(column: str, text: str) -> str:
    return STYLES.get(text, OTHER_STYLE) if column == "status" else ""


def _print_totals(analysis: Analysis, console: Console) -> None:
    counts = totals(outcomes(analysis)).T
    title = f"{len(analysis.frame)} records on {analysis.frame['problem_name'].nunique()} problems"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("method", overflow="fold")
    for outcome in counts.columns:
        table.add_column(outcome, justify="right")
    for method, row in counts.iterrows():
        table.add_row(Text(str(method)), *(f"{count:.0f}" for count in row))
    console.print(table)
    console.print(Text(analysis.environment, "dim"))


def _print_wrong(analysis: Analysis, console: Console) -> None:
    """What was silently wrong; what failed and where it ran stand with the table."""
    sentences = next((section.sentences for section in summary(analysis) if section.title == WRONG), [])
    if sentences:
        console.print(Text(WRONG, "bold"))
    for sentence in sentences[:BRIEF]:
        console.print(Text(sentence))
    if len(sentences) > BRIEF:
        console.print(Text(f"and {len(sentences) - BRIEF} more {WRITTEN}", "dim"))


def _print_versions(analysis: Analysis, console: Console) -> None:
    """What changes with the version of torch, the first few changes of each kind; then what is not compared."""
    found = versions(analysis)
    if found is None:
        return
    if found.changes:
        _print_changes(found.changes, console)
    for sentence in left_out(found):
        console.print(Text(sentence, "dim"))


def _print_changes(changes: Sequence[Change], console: Console) -> None:
    kinds = Series([change.kind for change in changes])
    counts = kinds.map(kinds.value_counts())
    brief = kinds.groupby(kinds).cumcount() < BRIEF
    titles = kinds.where(counts <= BRIEF, kinds + [f" (the first {BRIEF} of {count})" for count in counts])
    texts = table(changes, listed)
    console.print()
    print_sections(console, texts[brief], titles[brief], widths(texts, set(texts.columns), console.width), set())
    if not brief.all():
        console.print(Text(WRITTEN, "dim"))


def _print_messages(shown: DataFrame, message: Series, console: Console) -> None:
    if len(shown) == 1:
        if message.iloc[0]:
            console.print(Text(message.iloc[0]))
        return
    if "stated error" in shown:  # budgets and seeds of an estimate differ in numbers only
        names = shown["method"].str.split().str[0]
        shown = shown.assign(method=shown["method"].where(shown["stated error"] == "-", names))
    said = shown.assign(message=message, words=message.str.replace("[^A-Za-z ]", "", regex=True))[message != ""]
    for (method, status, _), rows in said.groupby(["method", "status", "words"], sort=False):
        times = f" ({len(rows)} cells)" if len(rows) > 1 else ""
        style = STYLES.get(str(status), OTHER_STYLE)
        line = Text.assemble(f"{method} ", (str(status), style), f"{times}: {rows['message'].iloc[0]}")
        console.print(line, no_wrap=True, overflow="ellipsis")
