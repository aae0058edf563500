"""The report in words: which way was fastest where and by how much, what was silently wrong, what failed and why."""

from __future__ import annotations

from dataclasses import dataclass

import pandas
from pandas import DataFrame, Series

from harness.report.rows import (
    CELL,
    differing,
    duration,
    environment,
    interval,
    plain,
    prepared,
    setting,
    significant,
)
from harness.report.verdicts import cause, listed, percent

MEASURED_BUT_NOT_RIGHT = ("wrong", "nonfinite")
WORDS = {"oom": "out of memory", "timeout": "over the time limit", "error": "with an error"}
REASON = 160  # characters of why rows failed


@dataclass(frozen=True)
class Section:
    """Sentences on one question, the most telling first; each is one line of printable text."""

    title: str
    sentences: list[str]


def summary(frame: DataFrame) -> list[Section]:
    """What a frame of `harness.record.load` says; a section without a sentence is left out."""
    rows = prepared(frame)
    rows["label"] = rows["label"].map(plain)
    cells = rows.sort_values("status", key=lambda status: status.eq("ok"), kind="stable").drop_duplicates(CELL)
    timed = rows["median_s"].notna().any()
    sections = (
        Section("Fastest", fastest(rows)) if timed else Section("Right most often", right(cells)),
        Section("Silently wrong", wrong(cells)),
        Section("Failed", failed(cells)),
        Section("Measured on", [f"{environment(rows)}.", *_when(rows)]),
    )
    return [section for section in sections if section.sentences]


def fastest(rows: DataFrame) -> list[str]:
    """Who won where: a tally, then a sentence for each problem, size and setting where two ways or more are right."""
    keys = ["problem", "params", *(["quantity"] if rows["quantity"].nunique() > 1 else []), *differing(rows)]
    winners: list[str | None] = []
    told: list[str] = []
    for _, group in rows.groupby(keys, dropna=False):
        told_apart = [setting(key, group[key].iloc[0]) for key in keys[2:]]
        place = [plain(group["problem"].iloc[0]), _size(group["params"].iloc[0]), *told_apart]
        whole = group.groupby("label").filter(lambda of: of["status"].eq("ok").all() and of["median_s"].notna().all())
        times = whole.groupby("label")["median_s"].median().sort_values()
        if len(times) < 2:
            continue
        winner, sentence = _contest(whole, times)
        winners.append(winner)
        told.append(f"{', '.join(place)}: {sentence}{_spoiled(group, times)}.")
    if len(told) < 2:
        return told
    wins = Series([winner for winner in winners if winner is not None], dtype="object").value_counts()
    parts = [f"{len(told)} comparisons between ways that are right"]
    if len(wins):
        parts.append("won by " + ", ".join(f"{winner} ({count})" for winner, count in wins.items()))
    if None in winners:
        parts.append(f"{winners.count(None)} undecided")
    if not rows.duplicated(CELL).any():
        parts.append("one process a cell, so no intervals")
    return [f"{'; '.join(parts)}.", *told]


def _size(params: float) -> str:
    return "P unknown" if pandas.isna(params) else f"P={params:.0f}"


def _contest(rows: DataFrame, times: Series) -> tuple[str | None, str]:
    """The winner and a sentence on its ratio to the second, process by process of the same seed and round.

    There is no winner where the interval of the ratio over several processes has 1 in it.
    """
    first, second = times.index[:2]
    one, other = (_by_process(rows[rows["label"] == label]) for label in (first, second))
    ratios = (other / one).dropna()
    ratio, over, decided = times[second] / times[first], "", True
    if len(ratios) > 1:
        ratio, (low, high) = ratios.median(), interval(ratios)
        kind = "95 % interval" if len(ratios) >= 6 else "range"
        over = f" ({kind} over {len(ratios)} processes: {significant(low)} to {significant(high)})"
        decided = not low <= 1 <= high
    if decided:
        lead = f"{significant(ratio)} times as fast as {second}{over}"
        return first, f"{first} is fastest, {duration(times[first])}, {lead}"
    both = " and ".join(f"{label} ({duration(times[label])})" for label in (first, second))
    return None, f"{both} are not told apart, ratio {significant(ratio)}{over}"


def _by_process(rows: DataFrame) -> Series:
    return rows.groupby(["seed", "round"], dropna=False)["median_s"].median()


def _spoiled(group: DataFrame, times: Series) -> str:
    """What takes the shine off a win: contention, a known flaw of the winner, and faster ways that are wrong."""
    won = group[group["label"].isin(times.index[:2])]
    contended = "; measured under contention" if won["contended"].any() else ""
    warned = group.loc[group["label"] == times.index[0], "warning"].notna().any()
    unsafe = "; the winner is wrong elsewhere under the same operators" if warned else ""
    bad = group[group["status"].isin(MEASURED_BUT_NOT_RIGHT) & (group["median_s"] < times.iloc[0])]
    faster = f"; faster, but wrong: {listed(list(set(bad['label'])))}" if len(bad) else ""
    return contended + unsafe + faster


def right(cells: DataFrame) -> list[str]:
    """How often each way is right, where nothing was timed."""
    counts = cells["status"].eq("ok").groupby(cells["label"]).agg(["sum", "size"])
    counts = counts.sort_values(["sum", "size"], ascending=[False, True], kind="stable")
    return [", ".join(f"{label} {row['sum']} of {row['size']}" for label, row in counts.iterrows()) + "."]


def wrong(cells: DataFrame) -> list[str]:
    """Ways that gave a wrong result and no error, then those that did elsewhere under the same operators."""
    bad = cells[cells["status"].isin(MEASURED_BUT_NOT_RIGHT)]
    told = []
    for label, group in sorted(bad.groupby("label"), key=lambda pair: -pair[1]["relative_error"].fillna(0).max()):
        worst = group.sort_values("relative_error", na_position="first").iloc[-1]
        by = f", by up to {percent(worst['relative_error'])} on {plain(worst['problem'])}"
        by = "" if pandas.isna(worst["relative_error"]) else by
        nonfinite = group["status"].eq("nonfinite").sum()
        infinite = f", {nonfinite} of them with NaN or infinite entries" if nonfinite else ""
        told.append(f"{label}: {len(group)} of {cells['label'].eq(label).sum()} rows{by}{infinite}.")
    unsafe = cells[cells["warning"].notna()]
    if len(unsafe):
        ways = listed(list(set(unsafe["label"])))
        told.append(f"{len(unsafe)} rows are right here but unsafe, wrong elsewhere under the same operators: {ways}.")
    return told


def failed(cells: DataFrame) -> list[str]:
    """What could not be measured and why, the most frequent cause first."""
    bad = cells[~cells["status"].isin(("ok", *MEASURED_BUT_NOT_RIGHT))]
    causes = bad["message"].fillna("").map(plain).map(cause)
    told = []
    for (status, _), group in sorted(bad.groupby(["status", causes]), key=lambda pair: -len(pair[1])):
        counts = group["label"].value_counts()
        ways = ", ".join(f"{label} ({count})" if count > 1 else str(label) for label, count in counts.items())
        said = plain(group["message"].fillna("no message").iloc[0]).split(" -> ")[0]
        reason = said if len(said) <= REASON else said[: REASON - 1] + "…"
        told.append(f"{len(group)} {WORDS.get(str(status), status)}: {ways}. The message: {reason}")
    return told


def _when(rows: DataFrame) -> list[str]:
    started = sorted(text[:16].replace("T", " ") for text in rows["started"].dropna())
    commits = sorted({plain(commit)[:8] for commit in rows["commit"].dropna()})
    if not started:
        return []
    by = f", by harness {listed(commits)}" if commits else ""
    return [f"{len(rows)} records, {plain(started[0])} to {plain(started[-1])} UTC{by}."]
