"""The report in words: which way was fastest where and by how much, what was silently wrong, what failed and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas
from pandas import DataFrame, Series

from harness.analysis.coverage import cause, listed, percent
from harness.analysis.ratios import ORDER_STATISTICS, SAMPLES, STUDENT, Ratio, ratio
from harness.analysis.table import differing, duration, environment, plain, prepared, setting, significant

MEASURED_BUT_NOT_RIGHT = ("wrong", "nonfinite")
WORDS = {"oom": "out of memory", "timeout": "over the time limit", "error": "with an error"}
REASON = 160  # characters of why rows failed
# What told the fastest way from the second (`Ratio.by`), as the tally puts it; what a single process tells is no win.
WON = {
    ORDER_STATISTICS: f"won by {ORDER_STATISTICS}",
    STUDENT: f"won by {STUDENT}",
    SAMPLES: "faster in a single process, which counts as no win",
}


@dataclass(frozen=True)
class Section:
    """Sentences on one question, the most telling first; each is one line of printable text."""

    title: str
    sentences: list[str]


def summary(frame: DataFrame) -> list[Section]:
    """What a frame of `harness.record.load` says; a section without a sentence is left out."""
    rows = prepared(frame)
    rows["label"] = rows["label"].map(plain)
    cells = rows.sort_values("status", key=lambda status: status.eq("ok"), kind="stable").drop_duplicates("cell")
    timed = rows["median_s"].notna().any()
    sections = (
        Section("Fastest", fastest(rows)) if timed else Section("Right most often", right(cells)),
        Section("Silently wrong", wrong(cells)),
        Section("Warned that results may be wrong", doubted(cells)),
        Section("Failed", failed(cells)),
        Section("Measured on", [f"{environment(rows)}.", *_when(rows)]),
    )
    return [section for section in sections if section.sentences]


@dataclass(frozen=True)
class Contest:
    """The fastest way that is right beside the second."""

    first: str
    told_by: str | None  # of WON; None where the two are not told apart
    sentence: str


def fastest(rows: DataFrame) -> list[str]:
    """Who won where: a tally, then a sentence for each problem, size and setting where two ways or more are right."""
    keys = ["problem", "params", *(["quantity"] if rows["quantity"].nunique() > 1 else []), *differing(rows)]
    contests: list[Contest] = []
    told: list[str] = []
    for _, group in rows.groupby(keys, dropna=False):
        told_apart = [setting(key, group[key].iloc[0]) for key in keys[2:]]
        place = [plain(group["problem"].iloc[0]), _size(group["params"].iloc[0]), *told_apart]
        whole = group.groupby("label").filter(lambda of: of["status"].eq("ok").all() and of["median_s"].gt(0).all())
        times = whole.groupby("label")["median_s"].median().sort_values()
        if len(times) < 2:
            continue
        contests.append(_contest(whole, times))
        told.append(f"{', '.join(place)}: {contests[-1].sentence}{_spoiled(group, times, contests[-1].first)}.")
    return [_tally(contests), *told] if len(told) > 1 else told


def _tally(contests: list[Contest]) -> str:
    parts = [f"{len(contests)} comparisons between ways that are right"]
    for told_by, words in WON.items():
        firsts = Series([contest.first for contest in contests if contest.told_by == told_by], dtype="object")
        if len(firsts):
            counts = ", ".join(f"{first} ({count})" for first, count in firsts.value_counts().items())
            parts.append(f"{words}: {counts}")
    undecided = sum(contest.told_by is None for contest in contests)
    return "; ".join([*parts, *([f"{undecided} undecided"] if undecided else [])]) + "."


def _size(params: float) -> str:
    return "P unknown" if pandas.isna(params) else f"P={params:.0f}"


def _contest(rows: DataFrame, times: Series) -> Contest:
    """The two fastest ways, told apart by the order of their ratio, process by process; that tells the first too."""
    first, second = times.index[:2]
    one, other = (rows[rows["label"] == label] for label in (first, second))
    seen = ratio(one, other)
    if seen.order < 0:  # the medians' order is that of a drift, or of processes that only one of the two has
        first, second, seen = second, first, ratio(other, one)
    value = significant(seen.value)
    if seen.order == 0:
        both = " and ".join(f"{label} ({duration(times[label])})" for label in (first, second))
        near = seen.by == SAMPLES and value != "1" and (seen.low > 1 or seen.high < 1)
        close = ", too near 1 for one process" if near else ""
        apart = "undecided" if math.isnan(seen.low) else "not told apart"
        return Contest(first, None, f"{both} are {apart}, ratio {value}{close} ({_ends(seen)})")
    how = "faster in this process" if seen.by == SAMPLES else "fastest"
    lead = f"{value} times as fast as {second} ({_ends(seen)})"
    return Contest(first, seen.by, f"{first} is {how}, {duration(times[first])}, {lead}")


def _ends(seen: Ratio) -> str:
    """The interval in words: that of few samples is their range, and so none of 95 %."""
    ends = f"{significant(seen.low)} to {significant(seen.high)}"
    if seen.by == SAMPLES:
        return "too few samples for an interval" if math.isnan(seen.low) else f"{ends} by {SAMPLES}"
    return f"95 % interval {ends} over {seen.processes} processes"


def _spoiled(group: DataFrame, times: Series, first: str) -> str:
    """What takes the shine off a win: contention, a known flaw of the fastest, and faster ways that are wrong."""
    won = group[group["label"].isin(times.index[:2])]
    contended = "; measured under contention" if won["contended"].any() else ""
    warned = group.loc[group["label"] == first, "warning"].notna().any()
    unsafe = f"; {first} is wrong elsewhere under the same operators" if warned else ""
    bad = group[group["status"].isin(MEASURED_BUT_NOT_RIGHT) & (group["median_s"] < times[first])]
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
        told_by_error = worst["relative_error"] > (0 if pandas.isna(worst["tolerance"]) else worst["tolerance"])
        by = by if told_by_error else ""  # what is wrong in another way, say in its shape, has no number
        nonfinite = group["status"].eq("nonfinite").sum()
        infinite = f", {nonfinite} of them with NaN or infinite entries" if nonfinite else ""
        told.append(f"{label}: {len(group)} of {cells['label'].eq(label).sum()} rows{by}{infinite}.")
    unsafe = cells[cells["warning"].notna()]
    if len(unsafe):
        ways = listed(list(set(unsafe["label"])))
        told.append(f"{len(unsafe)} rows are right here but unsafe, wrong elsewhere under the same operators: {ways}.")
    return told


def doubted(cells: DataFrame) -> list[str]:
    """Warnings that the result may be wrong, with the problems on which they were heard; the most frequent first."""
    found = cells[cells["doubted"]].groupby("warnings")["problem"]
    told = sorted(((plain(text), problems) for text, problems in found), key=lambda pair: -len(pair[1]))
    return [f"{len(problems)} rows on {listed(list(set(problems.map(plain))))}: {text}" for text, problems in told]


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
    commits = sorted({plain(commit)[:8] for commit in rows.loc[rows["code"] == "own", "commit"].dropna()})
    if not started:
        return []
    by = f", by harness {listed(commits)}" if commits else ""
    return [f"{len(rows)} records, {plain(started[0])} to {plain(started[-1])} UTC{by}."]
