"""The report as text: table.csv for programs, table.md for readers, and a table for the terminal."""

from __future__ import annotations

from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.coverage import totals, verdicts
from harness.analysis.table import (
    CELL,
    SETTINGS,
    as_text,
    counted,
    differing,
    differing_options,
    duration,
    environment,
    escaped,
    over_processes,
    plain,
    prepared,
    significant,
)
from harness.record import FIELDS
from harness.report.summary import summary

STYLES = {"ok": "green", "wrong": "bold red", "nonfinite": "bold red", "unsupported": "yellow", "timeout": "magenta"}
OTHER_STYLE = "red"
MIB = 2**20
MANY = 1000  # rows from which on the terminal shows totals only
BRIEF = 4  # sentences of each section of the summary on the terminal
SHORT = 100  # characters of a message in a table

# Heading, column, and how its number is written.
MEASURED = (
    ("time", "median_s", lambda seconds: duration(seconds)),
    ("first call", "first_s", lambda seconds: duration(seconds)),
    ("gradients", "gradients", lambda ratio: significant(ratio)),
    ("peak MiB", "tensor_peak_bytes", lambda size: significant(size / MIB)),
    ("outputs", "tensor_peak_outputs", lambda ratio: significant(ratio)),
    ("process MiB", "process_peak_bytes", lambda size: significant(size / MIB)),
    ("GEMMs", "gemm_equivalents", lambda ratio: significant(ratio)),
    ("writes", "write_multiples", lambda ratio: significant(ratio)),
    ("error", "relative_error", lambda error: f"{error:.1e}" if error else "0"),
)
# The same, where any row has it, and what the heading means.
SOMETIMES = (
    (
        "std error",
        "standard_error",
        lambda error: f"{error:.1e}",
        "norm of an estimate's standard errors over the true norm",
    ),
    (
        "from Hessian",
        "hessian_distance",
        lambda distance: f"{distance:.1e}",
        "distance of a GGN from the Hessian over that one's norm",
    ),
    ("graph breaks", "graph_breaks", lambda count: f"{count:.0f}", "places where torch.compile fell back to Python"),
)
CONTENDED = " *"  # behind a time
UNSAFE = ", unsafe"  # behind the status of a row that the atlas warns of
WARNED = ", warned"  # and of one that was warned that its result may be wrong
NUMBERS = {"P", "from", "to", *(heading for heading, *_ in (*MEASURED, *SOMETIMES))}
GROUPS = {
    "problem": "problem",
    "params": "P",
    "quantity": "quantity",
    "label": "method",
    "device": "device",
    "dtype": "dtype",
}


def readable(frame: DataFrame) -> DataFrame:
    """One row of text a cell, over the processes that ran it; sorted by problem, P, quantity, dtype, device and time.

    Columns: what was asked (with any other setting in which the rows differ), status, the measured numbers, where a
    failure shows its status word for a number it has not, and the whole message on one line.
    """
    rows = over_processes(prepared(frame))
    rows = rows.sort_values(["problem", "params", "quantity", "dtype", "device", "median_s"], kind="stable")
    rows["measure"] = differing_options(rows["measure"])
    shown = DataFrame(index=rows.index)
    for column in _telling(rows):
        shown[GROUPS.get(column, column)] = rows[column].map(as_text)
    shown["status"] = rows["status"].where(rows["warning"].isna(), rows["status"] + UNSAFE)
    shown["status"] += rows["doubted"].map({True: WARNED, False: ""})
    gap = rows["status"].where(rows["status"] != "ok", "-")
    for heading, column, written in MEASURED:
        shown[heading] = rows[column].map(written, na_action="ignore").astype("object").fillna(gap)
    for heading, column, written, _ in SOMETIMES:
        if rows[column].notna().any():
            shown[heading] = rows[column].map(written, na_action="ignore").astype("object").fillna("-")
    shown["time"] += rows["contended"].map({True: CONTENDED, False: ""})
    if rows["processes"].max() > 1:
        place = list(shown.columns).index("time") + 1
        shown.insert(place, "from", rows["low_s"].map(duration, na_action="ignore").astype("object").fillna("-"))
        shown.insert(place + 1, "to", rows["high_s"].map(duration, na_action="ignore").astype("object").fillna("-"))
    said = rows[["warning", "warnings", "explained", "message"]].astype("object").fillna("")
    shown["message"] = said.apply(lambda texts: "; ".join(filter(None, texts)), axis=1).map(plain)
    return shown


def _telling(rows: DataFrame) -> list[str]:
    """GROUPS, the settings in which cells differ, and what else of CELL parts some that agree in all of these."""
    found = [*GROUPS, *differing(rows, (*(name for name in SETTINGS if name not in GROUPS), "seed"))]
    for column in CELL:
        if column not in found and (rows.groupby(found, dropna=False)[column].nunique(dropna=False) > 1).any():
            found.append(column)
    return [*found, *differing(rows, ["processes"])]


def csv(frame: DataFrame) -> str:
    """Every record with all its columns but traceback and sketch; of times their number: `time_samples` of times_s."""
    rows = frame.drop(columns=["schema_version", "traceback", "sketch"])
    rows["warning"] = prepared(frame)["warning"].to_numpy()
    lists = [field.name for field in FIELDS if field.type.startswith("list") and field.name in rows]
    rows[lists] = rows[lists].map(lambda times: len(times) if isinstance(times, list) else 0)
    whole = [field.name for field in FIELDS if field.type == "int" and field.name in rows]
    rows = rows.astype(dict.fromkeys(whole, "Int64"))
    numbers = {name: f"{name.removesuffix('_s').removesuffix('s')}_samples" for name in lists}
    return rows.rename(columns=numbers).to_csv(index=False)


def markdown(frame: DataFrame) -> str:
    """A table with a line a record, and what all of them share below it."""
    shown = readable(frame)
    shown["message"] = shown["message"].map(shortened)
    aligned = ["right" if column in NUMBERS else "left" for column in shown.columns]
    table = shown.map(escaped).to_markdown(index=False, disable_numparse=True, colalign=aligned)
    rows = prepared(frame)
    return f"""{table}

{escaped(environment(rows))}; {counted(rows["status"])}.

{meanings(shown)}
"""


def meanings(shown: DataFrame) -> str:
    """What the headings and marks of a `readable` table mean."""
    intervals = "from, to: 95 % interval of the time's median over processes, below six their range. "
    intervals = intervals if "from" in shown else ""
    sometimes = "".join(f"; {heading}: {meaning}" for heading, _, _, meaning in SOMETIMES if heading in shown)
    warned = shown["status"].str.endswith(WARNED).any()
    doubt = "warned: Python or torch warned that the result may be wrong; the message says of what. " if warned else ""
    contended = shown["time"].str.endswith(CONTENDED).any()
    contention = "A time with * was measured under contention." if contended else ""
    return f"""time: median of the calls after the first; gradients: time over that of one gradient; peak: tensor memory
above the start, in MiB and as a multiple of the result's size; process: resident memory above the start; GEMMs: time
over that of N P^2 FLOPs at the machine's GEMM rate; writes: time over that of writing the result; error: Frobenius
distance from the reference over its norm{sometimes}. {intervals}{doubt}{contention}"""


def terminal(frame: DataFrame, console: Console | None = None) -> None:
    """Print the table, then the messages: a single record's in full, else a line for those that differ only in numbers.

    Of more than 1,000 rows on several problems only the verdicts are counted. What is the same in every row stands
    above the table; a failure's status stands for its time, a dash for the other numbers. Without a console, standard
    output is written to: 120 columns wide where it is no terminal.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if len(frame) > MANY and frame["problem_name"].nunique() > 1:
        _print_totals(frame, console)
        _print_summary(frame, console)
        return
    shown = readable(frame)
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
    console.print(Text(environment(prepared(frame)), "dim"))
    if shown["time"].str.endswith(CONTENDED).any():
        console.print("* measured under contention: another process wanted the processor")
    _print_messages(shown, message, console)
    if len(shown) > 1:
        _print_summary(frame, console)


def _print_totals(frame: DataFrame, console: Console) -> None:
    counts = totals(verdicts(frame)).T
    title = f"{len(frame)} rows on {frame['problem_name'].nunique()} problems"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("way", overflow="fold")
    for verdict in counts.columns:
        table.add_column(verdict, justify="right")
    for way, row in counts.iterrows():
        table.add_row(Text(str(way)), *(f"{count:.0f}" for count in row))
    console.print(table)
    console.print(Text(environment(prepared(frame)), "dim"))


def _print_summary(frame: DataFrame, console: Console) -> None:
    """Who won and what was silently wrong; what failed and where it ran stand with the table."""
    for section in summary(frame):
        if section.title in ("Fastest", "Silently wrong"):
            more = len(section.sentences) - BRIEF
            console.print(Text(section.title, "bold"))
            for sentence in section.sentences[:BRIEF]:
                console.print(Text(sentence))
            if more > 0:
                console.print(Text(f"and {more} more (--out DIR writes all of them)", "dim"))


def shortened(text: str) -> str:
    """At most SHORT characters."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


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
