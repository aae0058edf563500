"""The report in words: which method was fastest where and by how much, what was silently wrong, what failed and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas
from pandas import DataFrame, Series

from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT, Contest, contests
from harness.analysis.coverage import cause
from harness.analysis.ratios import ORDER_STATISTICS, SAMPLES, STUDENT, Ratio
from harness.analysis.table import Analysis
from harness.record import plain
from harness.text import duration, listed, percent, significant

WORDS = {"oom": "out of memory", "timeout": "over the time limit", "error": "with an error"}
REASON = 160  # characters of why rows failed
# How the fastest method was told from the second (`Ratio.by`), in words; a single process decides nothing.
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


def summary(analysis: Analysis) -> list[Section]:
    """What the records say; a section without a sentence is left out."""
    rows = analysis.rows.assign(label=analysis.rows["label"].map(plain))
    cells = rows.sort_values("status", key=lambda status: status.eq("ok"), kind="stable").drop_duplicates("cell")
    timed = rows["median_s"].notna().any()
    sections = (
        Section("Fastest", fastest(contests(analysis))) if timed else Section("Right most often", right(cells)),
        Section("Silently wrong", wrong(cells)),
        Section("Warned that results may be wrong", doubted(cells)),
        Section("Failed", failed(cells)),
        Section("Measured on", [f"{analysis.environment}.", *_when(rows)]),
    )
    return [section for section in sections if section.sentences]


def fastest(found: list[Contest]) -> list[str]:
    """Which method won where: a tally where there are several contests, then a sentence for each."""
    sentences = [f"{', '.join(_place(contest))}: {_result(contest)}{_doubts(contest)}." for contest in found]
    return [_tally(found), *sentences] if len(found) > 1 else sentences


def _tally(found: list[Contest]) -> str:
    parts = [f"{len(found)} comparisons between methods that are right"]
    for by, words in WON.items():
        firsts = Series([contest.first for contest in found if contest.decided and contest.lead.by == by])
        if len(firsts):
            counts = ", ".join(f"{first} ({count})" for first, count in firsts.value_counts().items())
            parts.append(f"{words}: {counts}")
    undecided = sum(not contest.decided for contest in found)
    return "; ".join([*parts, *([f"{undecided} undecided"] if undecided else [])]) + "."


def _place(contest: Contest) -> list[str]:
    size = "P unknown" if pandas.isna(contest.params) else f"P={contest.params:.0f}"
    return [contest.problem, size, *contest.settings]


def _result(contest: Contest) -> str:
    """Which of the two is faster and by how much, or that the two are not told apart."""
    lead = contest.lead
    if contest.decided:
        how = "faster in this process" if lead.by == SAMPLES else "fastest"
        by = f"{significant(lead.value)} times as fast as {contest.second} ({_ends(lead)})"
        return f"{contest.first} is {how}, {duration(contest.first_s)}, {by}"
    both = f"{contest.first} ({duration(contest.first_s)}) and {contest.second} ({duration(contest.second_s)})"
    apart = "undecided" if math.isnan(lead.low) else "not told apart"
    close = ", too near 1 for one process" if lead.near else ""
    return f"{both} are {apart}, ratio {significant(lead.value)}{close} ({_ends(lead)})"


def _ends(seen: Ratio) -> str:
    """The interval in words: that of few samples is their range, and so none of 95 %."""
    ends = f"{significant(seen.low)} to {significant(seen.high)}"
    if seen.by == SAMPLES:
        return "too few samples for an interval" if math.isnan(seen.low) else f"{ends} by {SAMPLES}"
    return f"95 % interval {ends} over {seen.processes} processes"


def _doubts(contest: Contest) -> str:
    """What takes the shine off a win: contention, a known flaw of the fastest, and faster methods that are wrong."""
    contended = "; measured under contention" if contest.contended else ""
    unsafe = f"; {contest.first} is wrong elsewhere under the same operators" if contest.unsafe else ""
    wrong = f"; faster, but wrong: {listed(contest.faster_but_wrong)}" if contest.faster_but_wrong else ""
    return contended + unsafe + wrong


def right(cells: DataFrame) -> list[str]:
    """How often each method is right, where nothing was timed."""
    counts = cells["status"].eq("ok").groupby(cells["label"]).agg(["sum", "size"])
    counts = counts.sort_values(["sum", "size"], ascending=[False, True], kind="stable")
    return [", ".join(f"{label} {row['sum']} of {row['size']}" for label, row in counts.iterrows()) + "."]


def wrong(cells: DataFrame) -> list[str]:
    """Methods that gave a wrong result and no error, then those that did elsewhere under the same operators."""
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
