"""What tables and figures share: rows that hold what other rows tell about them, and text that is safe to show."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from typing import Any

import pandas
from pandas import DataFrame, Series

from harness import findings
from harness.record import plain

# Job fields and facts of which each value is a group of its own; a second name is the column that already tells
# one value from another most of the time (each interpreter has its torch, each device its machine).
SETTINGS = {
    "dtype": None, "device": None, "threads": None, "allocator": None,
    "torch": None, "interpreter": "torch", "machine": "device",
}  # fmt: skip


# What makes a cell: rows that agree in these are the same cell, run in different processes.
CELL = ["problem", "problem_options", "label", "quantity", "vectors", "subset", "device", "dtype", "threads",
        "allocator", "seed", "interpreter", "torch", "packages", "machine", "limit_s", "passes", "measure"]  # fmt: skip
MEASURES = [
    "params", "median_s", "first_s", "gradients", "tensor_peak_bytes", "tensor_peak_outputs", "process_peak_bytes",
    "process_peak_outputs", "relative_error", "gemm_equivalents", "write_multiples",
]  # fmt: skip


def prepared(frame: DataFrame) -> DataFrame:
    """A copy of a frame of `harness.record.load`, made fit to group and show.

    Null names become "?". `params` and `torch`, null where a cell failed early, are taken from the rows of the same
    problem and interpreter where those agree. `problem` and `quantity` get the options that tell their rows apart
    other than by size (`mlp norm=layer`, `hvp vectors=8`), `machine` is the GPU, or else the CPU, and `warning` what
    the atlas knows against the row.
    """
    rows = frame.reset_index(drop=True)
    for column in ("problem", "quantity", "label", "device", "dtype", "allocator"):
        rows[column] = rows[column].astype("object").fillna("?")
    rows["interpreter"] = rows["interpreter"].astype("object").fillna("own")
    rows["machine"] = rows["gpu"].astype("object").fillna(rows["cpu"])
    rows["params"] = _filled(rows, "params", ["problem", "problem_options"])
    rows["torch"] = _filled(rows, "torch", ["interpreter"])
    rows["machine"] = _filled(rows, "machine", ["device"])
    rows["problem"] = _problems(rows)
    rows["warning"] = Series([findings.warning(seen) for seen in rows.to_dict("records")], dtype="object")
    hvp = rows["quantity"] == "hvp"
    if rows.loc[hvp, "vectors"].nunique() > 1:
        rows.loc[hvp, "quantity"] = "hvp vectors=" + rows.loc[hvp, "vectors"].map("{:g}".format)
    return rows


def interval(values: Series) -> tuple[float, float]:
    """A 95 % interval of the median over processes, whatever the distribution; below six the least and the largest.

    The exact interval between order statistics (Conover 1999), from scipy.
    """
    known = values.dropna()
    if len(known) >= 6:
        from scipy import stats

        found = stats.quantile_test(known.to_numpy(), p=0.5).confidence_interval(0.95)
        return float(found.low), float(found.high)
    return float(known.min()), float(known.max())


def over_processes(rows: DataFrame) -> DataFrame:
    """One row a cell out of prepared rows: medians over the processes (rounds) that ran it.

    Adds `processes`, their number, and `low_s` and `high_s`, the interval of the time. Status, message and all else are
    those of the first process that was not ok, or of the first; a cell is contended if any process was.
    """
    several = rows.duplicated(CELL, keep=False)
    once = rows[~several]
    once = once.assign(processes=1, low_s=once["median_s"], high_s=once["median_s"])
    merged = {}
    for _, group in rows[several].groupby(CELL, dropna=False, sort=False):
        failed = group[group["status"] != "ok"]
        row = (failed if len(failed) else group).iloc[0].to_dict()
        low, high = interval(group["median_s"])
        merged[group.index[0]] = (
            row
            | group[MEASURES].astype("float").median().to_dict()
            | {"processes": len(group), "low_s": low, "high_s": high, "contended": bool(group["contended"].any())}
        )
    if not merged:
        return once
    rest = DataFrame(list(merged.values()), index=list(merged))
    return pandas.concat([once, rest] if len(once) else [rest]).sort_index(ignore_index=True)


def differing(rows: DataFrame, settings: Sequence[str] = tuple(SETTINGS)) -> list[str]:
    """The settings in which prepared rows differ, and that no setting before them tells."""
    found = []
    for column in settings:
        within = SETTINGS.get(column)
        known = rows[rows[column] != "?"]
        counts = known[column].nunique() if within is None else known.groupby(within)[column].nunique().max()
        if counts > 1:
            found.append(column)
    return found


def setting(column: str, value: Any) -> str:
    """One setting's value as text: some speak for themselves, others need their name."""
    text = "?" if pandas.isna(value) else f"{value:g}" if pandas.api.types.is_number(value) else plain(value)
    return text if column in ("dtype", "device", "machine") else f"{column} {text}"


def environment(rows: DataFrame) -> str:
    """One line: the torch version, machine, threads, allocator and dtype of prepared rows; several with slashes."""
    parts = []
    for column in ("torch", "machine", "threads", "allocator", "dtype"):
        values = sorted(set(rows[column].dropna()) - {"?"})
        shown = " / ".join(f"{value:g}" if pandas.api.types.is_number(value) else plain(value) for value in values)
        parts.append(shown if shown and column in ("machine", "dtype") else f"{column} {shown or 'unknown'}")
    return ", ".join(parts)


def counted(statuses: Series) -> str:
    """`3 timeout, 1 error`: how often each status is there."""
    return ", ".join(f"{count} {status}" for status, count in statuses.value_counts().items())


def duration(seconds: float) -> str:
    """Three digits and the unit that suits them: `41.2 ms`."""
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{significant(seconds * scale)} {unit}"
    return f"{significant(seconds)} s"


def significant(number: float) -> str:
    """Three significant digits, without an exponent from 0.001 on."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def escaped(text: str) -> str:
    """Text of one line as Markdown shows it in a table."""
    return re.sub(r"([\\`*<|])", r"\\\1", text)


def _filled(rows: DataFrame, column: str, by: list[str]) -> Series:
    """The column, its gaps filled where all rows with the same `by` agree on one value."""
    known: dict[Hashable, Any] = {}
    keys = Series(list(rows[by].astype("str").itertuples(index=False, name=None)), index=rows.index)
    for key, values in rows[column].groupby(keys):
        distinct = values.dropna().unique()
        known[key] = distinct[0] if len(distinct) == 1 else None
    return rows[column].where(rows[column].notna(), keys.map(known))


def _problems(rows: DataFrame) -> Series:
    """The problem's name and its options that differ other than in size.

    An option is one of size if its values are numbers and no two of them give the same P. Where P is unknown, the
    options of size are told too.
    """
    names = rows["problem"].copy()
    for _, group in rows.groupby("problem"):
        texts = DataFrame([_options(text) for text in group["problem_options"]], index=group.index)
        texts = texts[group["problem_options"].notna()].fillna("null")
        unsized = group["params"].isna()
        for key in texts.columns[texts.nunique() > 1]:
            numbers = texts[key].str.fullmatch(r"-?[\d.e+-]+").all()
            telling = not numbers or texts[key].groupby(group["params"]).nunique().max() > 1
            shown = f" {key}=" + texts[key].str.strip('"')
            names.loc[texts.index] += shown.where(telling | unsized[texts.index], "")
    return names


def _options(text: object) -> dict[str, str]:
    """Each option's value as JSON; none where the text is no JSON object."""
    try:
        options = json.loads(str(text))
    except ValueError:
        return {}
    if not isinstance(options, dict):
        return {}
    return {key: json.dumps(value, sort_keys=True) for key, value in options.items()}
