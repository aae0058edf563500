"""What a comparison shows: a table in the terminal, Markdown, JUnit XML, and an exit status."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.compare import times
from harness.compare.verdicts import ALARMS, VERDICTS
from harness.record import plain
from harness.text import escaped

STYLES = {
    "broken": "bold red",
    "slower": "red",
    "undecided": "yellow",
    "not comparable": "yellow",
    "fixed": "green",
    "faster": "green",
    "same": "",
}
SHOWN = 40  # lines of the terminal's table; cells that are the same come last


def status(verdicts: DataFrame) -> int:
    """The exit status: 0 no regression, 1 a regression, 2 nothing comparable, 3 if files were skipped."""
    if verdicts["verdict"].isin(ALARMS).any():
        return 1
    if verdicts.attrs["skipped"]:
        return 3
    return 2 if (verdicts["verdict"] == "not comparable").all() else 0


def summary(verdicts: DataFrame) -> str:
    """`12 cells: 1 slower, 11 same.`"""
    counts = verdicts["verdict"].value_counts()
    found = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    return f"{len(verdicts)} cells: {found}." if found else "No cell is in both."


def terminal(verdicts: DataFrame, console: Console | None = None) -> None:
    """Print the table, the worst first, and the summary."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "verdict", "ratio", "interval"):
        table.add_column(name, justify="right" if name in ("ratio", "interval") else "left", overflow="fold")
    table.add_column("why", overflow="fold")
    for _, row in verdicts.head(SHOWN).iterrows():
        style = STYLES[row["verdict"]]
        table.add_row(
            Text(row["cell"]), Text(row["verdict"], style), ratio(row), interval(row), Text(plain(row["reason"]))
        )
    if len(verdicts):
        console.print(table)
    if len(verdicts) > SHOWN:
        console.print(f"and {len(verdicts) - SHOWN} more")
    for note in _notes(verdicts):
        console.print(Text(note, "dim"))
    console.print(Text(summary(verdicts), "bold"))


def markdown(verdicts: DataFrame) -> str:
    """For a pull request or a job's summary: a table of what changed, and the rest folded."""
    parts = [f"**{summary(verdicts)}**"]
    changed = verdicts[verdicts["verdict"] != "same"]
    rest = verdicts[verdicts["verdict"] == "same"]
    if len(changed):
        parts.append(_markdown_table(changed))
    if len(rest):
        parts.append(
            f"<details><summary>{len(rest)} cells are the same</summary>\n\n{_markdown_table(rest)}\n\n</details>"
        )
    if _notes(verdicts):
        parts.append("\n".join(f"- {escaped(note)}" for note in _notes(verdicts)))
    return "\n\n".join(parts) + "\n"


def junit(verdicts: DataFrame) -> str:
    """A test case for each cell: a failure if it is broken or slower, skipped if undecided or not comparable."""
    alarms = verdicts["verdict"].isin(ALARMS)
    undecided = verdicts["verdict"].isin(["undecided", "not comparable"])
    skipped = verdicts.attrs["skipped"]
    suite = ElementTree.Element(
        "testsuite",
        name="harness.compare",
        tests=str(len(verdicts) + len(skipped)),
        failures=str(alarms.sum()),
        skipped=str(undecided.sum()),
        errors=str(len(skipped)),
    )
    for _, row in verdicts.iterrows():
        case = ElementTree.SubElement(suite, "testcase", classname=plain(row["problem"]), name=row["cell"])
        message = f"{row['verdict']} {ratio(row)} {interval(row)} {plain(row['reason'])}".strip()
        if row["verdict"] in ALARMS:
            ElementTree.SubElement(case, "failure", message=message)
        elif row["verdict"] in ("undecided", "not comparable"):
            ElementTree.SubElement(case, "skipped", message=message)
        else:
            ElementTree.SubElement(case, "system-out").text = message
    for file in skipped:
        case = ElementTree.SubElement(suite, "testcase", classname="records", name=plain(file))
        ElementTree.SubElement(case, "error", message="no record that can be read")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _notes(verdicts: DataFrame) -> list[str]:
    """What else to know, on one line each."""
    skipped = [f"skipped {file}" for file in verdicts.attrs["skipped"]]
    return [plain(note) for note in (*verdicts.attrs["notes"], *skipped)]


def ratio(row: Series) -> str:
    """Candidate over baseline."""
    return "" if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}"


def interval(row: Series) -> str:
    """The interval of the ratio, at 99 %."""
    if math.isnan(row["low"]):
        return ""
    return times.interval(row["low"], row["high"])


def _markdown_table(rows: DataFrame) -> str:
    shown = DataFrame(
        {
            "cell": rows["cell"],
            "verdict": rows["verdict"],
            "ratio": rows.apply(ratio, axis=1),
            "interval": rows.apply(interval, axis=1),
            "why": rows["reason"].map(plain),
        }
    )
    return shown.map(escaped).to_markdown(index=False, disable_numparse=True)
