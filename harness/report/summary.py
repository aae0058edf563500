"""The report in words: what was silently wrong, what failed and why, and where it was measured."""

from __future__ import annotations

from dataclasses import dataclass

import pandas
from pandas import DataFrame

from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT
from harness.analysis.coverage import cause
from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.accuracy import unranked
from harness.text import listed, percent

WORDS = {"oom": "out of memory", "timeout": "over the time limit", "error": "with an error"}
REASON = 160  # characters of why methods failed
WRONG = "Silently wrong"  # the title of a section


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
        Section("Right most often", [] if timed else right(cells)),
        Section(WRONG, wrong(cells)),
        Section("Warned that results may be wrong", doubted(cells)),
        Section("Not ranked", [sentence for sentence in [unranked(analysis)] if sentence is not None]),
        Section("Failed", failed(cells)),
        Section("Measured on", [f"{analysis.environment}.", *_when(rows)]),
    )
    return [section for section in sections if section.sentences]


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
        told.append(f"{label}: {len(group)} of {cells['label'].eq(label).sum()} cells{by}{infinite}.")
    unsafe = cells[cells["warning"].notna()]
    if len(unsafe):
        methods = listed(list(set(unsafe["label"])))
        told.append(
            f"{len(unsafe)} cells are right here but unsafe: wrong elsewhere under the same operators: {methods}."
        )
    return told


def doubted(cells: DataFrame) -> list[str]:
    """Warnings that the result may be wrong, with the problems on which they were heard; the most frequent first."""
    found = cells[cells["doubted"]].groupby("warnings")["problem"]
    told = sorted(((plain(text), problems) for text, problems in found), key=lambda pair: -len(pair[1]))
    return [f"{len(problems)} cells on {listed(list(set(problems.map(plain))))}: {text}" for text, problems in told]


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
