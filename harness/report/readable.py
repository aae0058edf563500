"""Benchmark cells as text: what the terminal, table.md and the page show."""

from __future__ import annotations

from functools import lru_cache

from pandas import DataFrame

from harness.analysis.table import CELL, SETTINGS, Analysis, differing, differing_options
from harness.record import plain
from harness.text import as_text, duration, significant

MIB = 2**20
LAUNCH_BOUND = 0.5  # share of its time below which the GPU is not what limits a row

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
        "products",
        "products",
        lambda count: f"{count:.0f}",
        "Hessian-vector products that the method spent, or gradients in their place",
    ),
    (
        "stated error",
        "stated_error",
        lambda error: f"{error:.1e}",
        "what the result states of its own error, over the true norm",
    ),
    (
        "from Hessian",
        "hessian_distance",
        lambda distance: f"{distance:.1e}",
        "distance of a GGN from the Hessian over that one's norm",
    ),
    (
        "GPU busy",
        "gpu_busy",
        lambda share: f"{share:.0%}" + (", launch-bound" if share < LAUNCH_BOUND else ""),
        "share of the time in which the GPU computes; launch-bound: mostly it waits for the CPU to launch its kernels",
    ),
    ("graph breaks", "graph_breaks", lambda count: f"{count:.0f}", "places where torch.compile fell back to Python"),
)
CONTENDED = " *"  # behind a time
UNSAFE = ", unsafe"  # behind the status of a row that the atlas warns of
WARNED = ", warned"  # and of one that was warned that its result may be wrong
NUMBERS = {"P", "from", "to", *(heading for heading, *_ in (*MEASURED, *SOMETIMES))}
MAIN = ["status", "time", "peak MiB", "error"]  # what most readers look for, behind what was asked
OF_ESTIMATES = ["stated error", "products"]  # and behind them, where any row has it
ALL = "all"  # instead of a list of headings
GROUPS = {
    "family": "problem",
    "params": "P",
    "quantity": "quantity",
    "label": "method",
    "device": "device",
    "dtype": "dtype",
}
# `rounds` are repetitions of a cell, and `processes` those that compute one result together, as in a record.
HEADINGS = GROUPS | {"runs": "rounds", "ranks": "processes"}


@lru_cache(maxsize=1)
def readable(analysis: Analysis) -> DataFrame:
    """One row of text a cell, over the processes that ran it; sorted by problem, P, quantity, dtype, device and time.

    Whoever is given the table changes nothing in it.

    Columns: what was asked (with any other setting in which the rows differ), status, the measured numbers, where a
    failure shows its status word for a number it has not, and the whole message on one line.
    """
    rows = analysis.cells.sort_values(["family", "params", "quantity", "dtype", "device", "median_s"], kind="stable")
    rows = rows.assign(measure=differing_options(rows["measure"]))
    shown = DataFrame(index=rows.index)
    for column in _telling(rows):
        shown[HEADINGS.get(column, column)] = rows[column].map(lru_cache(typed=True)(as_text))
    shown["status"] = rows["status"].where(rows["warning"].isna(), rows["status"] + UNSAFE)
    shown["status"] += rows["doubted"].map({True: WARNED, False: ""})
    gap = rows["status"].where(rows["status"] != "ok", "-")
    for heading, column, written in MEASURED:
        shown[heading] = rows[column].map(written, na_action="ignore").astype("object").fillna(gap)
    for heading, column, written, _ in SOMETIMES:
        if rows[column].notna().any():
            shown[heading] = rows[column].map(written, na_action="ignore").astype("object").fillna("-")
    shown["time"] += rows["contended"].map({True: CONTENDED, False: ""})
    if rows["runs"].max() > 1:
        place = list(shown.columns).index("time") + 1
        shown.insert(place, "from", rows["low_s"].map(duration, na_action="ignore").astype("object").fillna("-"))
        shown.insert(place + 1, "to", rows["high_s"].map(duration, na_action="ignore").astype("object").fillna("-"))
    rows["throttled_by"] = rows["throttled_by"].map("the GPU throttled: {}".format, na_action="ignore")
    texts_of = ("warning", "warnings", "explained", "throttled_by", "message")
    said = (rows[name].astype("object").fillna("") for name in texts_of)
    messages = list(zip(*said, strict=True))
    printed = {texts: plain("; ".join(filter(None, texts))) for texts in set(messages)}
    shown["message"] = [printed[texts] for texts in messages]
    return shown


def _telling(rows: DataFrame) -> list[str]:
    """GROUPS, the settings in which cells differ, and what else of CELL parts some that agree in all of these."""
    found = [*GROUPS, *differing(rows, (*(name for name in SETTINGS if name not in GROUPS), "seed"))]
    for column in CELL:
        if column not in found and (rows.groupby(found, dropna=False)[column].nunique(dropna=False) > 1).any():
            found.append(column)
    return [*found, *differing(rows, ["runs"])]


def asked(shown: DataFrame) -> list[str]:
    """Those headings of a `readable` table that say what was asked: all before the status."""
    headings = list(map(str, shown.columns))
    return headings[: headings.index("status")]


def columns_of(shown: DataFrame, columns: str) -> list[str]:
    """The headings that `columns` lists, separated by commas; ALL leaves out what was asked of every row.

    Raises ValueError for one that the table has not.
    """
    known = list(map(str, shown.columns))
    if columns == ALL:
        same = {heading for heading in asked(shown) if shown[heading].nunique() == 1} - {"method"}
        return [heading for heading in known if heading not in same]
    headings = [heading.strip() for heading in columns.split(",")]
    missing = next((heading for heading in headings if heading not in known), None)
    if missing is not None:
        raise ValueError(f"there is no column {missing!r}; these records have {', '.join(known)}, or take {ALL}")
    return headings


def meanings(shown: DataFrame) -> str:
    """What the headings and marks of a `readable` table mean."""
    intervals = "from, to: 95 % interval of the time's median over rounds, below six their range. "
    intervals = intervals if "from" in shown else ""
    sometimes = "".join(f"; {heading}: {meaning}" for heading, _, _, meaning in SOMETIMES if heading in shown)
    warned = shown["status"].str.endswith(WARNED).any()
    doubt = "warned: Python or torch warned that the result may be wrong; the message says of what. " if warned else ""
    contended = shown["time"].str.endswith(CONTENDED).any()
    contention = "A time with * was measured under contention, or while the GPU throttled." if contended else ""
    return f"""time: median of the calls after the first; gradients: time over that of one gradient; peak: tensor memory
above the start, in MiB and as a multiple of the result's size; process: resident memory above the start; GEMMs: time
over that of N P^2 FLOPs at the machine's GEMM rate; writes: time over that of writing the result; error: Frobenius
distance from the reference over its norm{sometimes}. {intervals}{doubt}{contention}"""
