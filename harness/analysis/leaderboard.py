"""The leaderboard: the best right method at every size of every problem, and how far it is ahead."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas
from pandas import DataFrame

from harness.analysis.claims import claimed
from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT, Contest, Place, places
from harness.analysis.emphasis import baseline_of
from harness.analysis.ratios import Ratio
from harness.analysis.table import Analysis, setting
from harness.record import plain

# Columns of a place's rows, with its settings, that a leader is made of.
WITH_SETTINGS = ["family", "params", "label", "status", "median_s", "tensor_peak_bytes", "contended", "warning"]


@dataclass(frozen=True)
class SilentlyWrong:
    """A method that gave a wrong result and raised no error."""

    method: str
    status: str  # wrong or nonfinite
    error: float  # relative error; NaN where the result is wrong in another respect, say in its shape


@dataclass(frozen=True)
class Leader:
    """The fastest method that is right at one place: a problem, a size, a quantity and settings."""

    problem: str  # the family of problems
    params: float  # P; NaN where it is unknown
    settings: tuple[str, ...]  # quantity and settings, where the records differ in them
    method: str
    time_s: float  # median over processes
    peak_bytes: float  # peak of tensor memory above the start of the call; NaN where it was not measured
    second: str | None  # the next fastest method that is right; None where there is no other
    lead: Ratio | None  # how many times as fast the leader is as the second
    won: bool  # whether it is claimed to be faster than each other right method (`claims.claimed`)
    baseline_status: str | None  # of the baseline at this place; None where no record has it
    over_baseline: Ratio | None  # how many times as fast as the baseline; None unless that is another right method
    beats_baseline: bool  # whether it is claimed to be faster than the baseline (`claims.claimed`)
    contended: bool  # whether the leader or the second was measured under contention
    unsafe: bool  # whether the leader is known to be wrong elsewhere under the same operators
    wrong: tuple[SilentlyWrong, ...]  # at this place, the largest error first


@lru_cache(maxsize=1)
def leaderboard(analysis: Analysis, baseline: str | None = None) -> tuple[Leader, ...]:
    """The leader of each place at which a method is right and timed, by problem, P and settings.

    `baseline` is the label of a method, by default that of torch.func.hessian. Of all that is claimed, `won` and
    `beats_baseline`, at most the share `claims.RATE` is expected to be wrong by chance. Raises ValueError for a
    baseline that no record has.
    """
    compared = baseline_of(analysis, baseline)
    found = [(place, place.contest) for place in places(analysis) if place.contest is not None]
    found.sort(key=lambda pair: _by_problem_and_size(pair[0].rows))
    fastest = [contest.p_fastest() for _, contest in found]
    ahead = [contest.p_slower(compared) if compared in contest.leads else math.nan for _, contest in found]
    claims = claimed([*fastest, *ahead])
    quantity = ["quantity"] if analysis.rows["quantity"].nunique() > 1 else []
    telling = [*quantity, *analysis.settings]
    return tuple(
        _leader(place, contest, telling, compared, won, beats_baseline)
        for (place, contest), won, beats_baseline in zip(found, claims, claims[len(found) :], strict=False)
    )


def _by_problem_and_size(rows: DataFrame) -> tuple[str, bool, float]:
    """The order of places, in which an unknown P comes last."""
    params = float(rows["params"].iloc[0])
    return str(rows["family"].iloc[0]), math.isnan(params), params


def _leader(
    place: Place, contest: Contest, telling: list[str], baseline: str | None, won: bool, beats_baseline: bool
) -> Leader:
    """The leader of one place; `telling` are the columns that tell it from others."""
    label, second = contest.leader, contest.second
    rows: list[dict[Any, Any]] = place.rows[[*WITH_SETTINGS, *telling]].to_dict("records")
    own = [row for row in rows if row["label"] == label]
    return Leader(
        problem=plain(rows[0]["family"]),
        params=rows[0]["params"],
        settings=tuple(setting(name, rows[0][name]) for name in telling),
        method=plain(label),
        time_s=_median(own, "median_s"),
        peak_bytes=_median(own, "tensor_peak_bytes"),
        second=None if second is None else plain(second),
        lead=None if second is None else contest.leads[second],
        won=won,
        baseline_status=_status([row["status"] for row in rows if row["label"] == baseline]),
        over_baseline=contest.leads.get(str(baseline)),
        beats_baseline=beats_baseline,
        contended=any(row["contended"] for row in rows if row["label"] in (label, second)),
        unsafe=any(isinstance(row["warning"], str) for row in own),
        wrong=_wrong(place.rows) if any(row["status"] in MEASURED_BUT_NOT_RIGHT for row in rows) else (),
    )


def _median(rows: Sequence[Mapping[Any, Any]], column: str) -> float:
    known = [row[column] for row in rows if not math.isnan(row[column])]
    return statistics.median(known) if known else math.nan


def _status(statuses: Sequence[str]) -> str | None:
    """The first status of a method's rows that is not ok, else ok; None without rows."""
    return next((status for status in statuses if status != "ok"), "ok" if statuses else None)


def _wrong(group: DataFrame) -> tuple[SilentlyWrong, ...]:
    """The methods of a place that are measured and not right, each with its largest error."""
    told = group[["label", "status", "relative_error", "tolerance"]]
    bad = told[told["status"].isin(MEASURED_BUT_NOT_RIGHT)]
    errors = bad["relative_error"].where(bad["relative_error"] > bad["tolerance"].fillna(0))
    worst = bad.assign(error=errors).sort_values("error", ascending=False).drop_duplicates("label")
    return tuple(
        SilentlyWrong(plain(row["label"]), str(row["status"]), math.nan if pandas.isna(row["error"]) else row["error"])
        for _, row in worst.iterrows()
    )
