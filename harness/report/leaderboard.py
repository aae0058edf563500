"""The leaderboard as text: a line for each size of every problem, and what its marks mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas
from pandas import DataFrame

from harness.analysis.claims import RATE
from harness.analysis.leaderboard import Leader, SilentlyWrong
from harness.analysis.ratios import SAMPLES, Ratio
from harness.record import plain
from harness.report.readable import CONTENDED, MIB
from harness.text import duration, percent, significant

UNDECIDED = "~"  # before a ratio that is no claim
UNSAFE = " (unsafe)"  # behind a method
NUMBERS = {"P", "time", "peak MiB"}
INTERVAL = "95 % interval"
APART = "on several nodes"  # of a cluster, instead of a ratio
OVER_BASELINE = "over baseline"


def table(leaders: Sequence[Leader], baseline: str | None, most_wrong: int | None = None) -> DataFrame:
    """A row of text for each leader.

    There is a column for the `baseline`, a label, if there is one. At most `most_wrong` methods that are silently wrong
    are named; None names all.
    """
    rows = []
    for leader in leaders:
        row = {
            "problem": ", ".join([leader.problem, *leader.settings]),
            "P": "?" if pandas.isna(leader.params) else f"{leader.params:.0f}",
            "method": leader.method + (UNSAFE if leader.unsafe else ""),
            "time": duration(leader.time_s) + (CONTENDED if leader.contended else ""),
            "peak MiB": "-" if math.isnan(leader.peak_bytes) else significant(leader.peak_bytes / MIB),
        }
        if baseline is not None:
            row[OVER_BASELINE] = _over_baseline(leader, baseline)
        row |= {
            "over the next": _over_next(leader),
            INTERVAL: _interval(leader.lead),
            "silently wrong": _list(leader.wrong, most_wrong),
        }
        rows.append(row)
    return DataFrame(rows)


def notes(leaders: Sequence[Leader], baseline: str | None) -> str:
    """What the marks of the table mean, as far as it has them, in one line."""
    parts = ["over: how many times as fast", *([f"baseline: {plain(baseline)}"] if baseline is not None else [])]
    parts += _claims([leader for leader in leaders if leader.lead is not None and leader.lead.processes])
    ratios = [ratio for leader in leaders for ratio in (leader.lead, leader.over_baseline) if ratio is not None]
    if any(ratio.processes == 0 for ratio in ratios):
        parts.append(f"{APART}: their times do not compare")
    if any(leader.contended for leader in leaders):
        parts.append("* one of the two measured under contention, or while the GPU throttled")
    if any(leader.unsafe for leader in leaders):
        parts.append("unsafe: wrong elsewhere under the same operators")
    return "; ".join(parts) + "."


def _claims(leaders: Sequence[Leader]) -> list[str]:
    """What the ratios over the next and over the baseline claim, with and without a mark; nothing without ratios."""
    no_claim = [leader.lead for leader in leaders if leader.lead is not None and not leader.won]
    alone = sum(lead.processes == 1 for lead in no_claim)
    parts = []
    if no_claim:
        why = f"undecided: {len(no_claim) - alone}, of a single process: {alone}"
        parts.append(f"{UNDECIDED} no claim (leads over the next: {len(leaders)}, {why})")
    if any(leader.won or leader.beats_baseline for leader in leaders):
        parts.append(
            f"without {UNDECIDED} faster: at most {100 * RATE:g} % of these are expected to be wrong by chance (false "
            "discovery rate over the table; an interval is of one ratio alone)"
        )
    return parts


def _over_baseline(leader: Leader, baseline: str) -> str:
    """The ratio to the baseline, or why there is none."""
    if leader.method == plain(baseline):
        return "itself"
    if leader.over_baseline is not None:
        return _times(leader.over_baseline, leader.beats_baseline)
    return leader.baseline_status or "not run"


def _over_next(leader: Leader) -> str:
    if leader.lead is None:
        return "no other is right"
    return f"{_times(leader.lead, leader.won)}{'' if leader.lead.processes else ':'} {leader.second}"


def _times(seen: Ratio, claimed: bool) -> str:
    """`3.1×`; with a mark before it where it is no claim, and words where there is no ratio."""
    if seen.processes == 0:
        return APART
    return f"{'' if claimed else UNDECIDED}{significant(seen.value)}×"


def _interval(lead: Ratio | None) -> str:
    """The interval of the lead over the next method and its source; a dash where there are too few samples."""
    if lead is None:
        return "-"
    if math.isnan(lead.low):
        return "- (1 process)" if lead.processes else "-"
    source = "samples of 1 process" if lead.by == SAMPLES else f"{lead.processes} processes"
    return f"{significant(lead.low)} to {significant(lead.high)} ({source})"


def _list(wrong: Sequence[SilentlyWrong], most: int | None) -> str:
    """The methods that are silently wrong, or the first of them and how many more there are."""
    named = ", ".join(map(_wrong, wrong[:most]))
    more = len(wrong) - len(wrong[:most])
    return f"{named} and {more} more" if more else named


def _wrong(seen: SilentlyWrong) -> str:
    """A method and by how much it is wrong."""
    if seen.status == "nonfinite":
        return f"{seen.method} (NaN or infinite)"
    return seen.method if math.isnan(seen.error) else f"{seen.method} ({percent(seen.error)})"
