"""The leaderboard: the best right method at every size of every problem, and how far it is ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas
from pandas import DataFrame

from harness.analysis.contests import MEASURED_BUT_NOT_RIGHT, between, contest, right
from harness.analysis.emphasis import baseline_of
from harness.analysis.ratios import Ratio
from harness.analysis.table import Analysis, setting
from harness.record import plain


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
    baseline_status: str | None  # of the baseline at this place; None where no record has it
    over_baseline: Ratio | None  # how many times as fast as the baseline; None unless that is another right method
    contended: bool  # whether the leader or the second was measured under contention
    unsafe: bool  # whether the leader is known to be wrong elsewhere under the same operators
    wrong: tuple[SilentlyWrong, ...]  # at this place, the largest error first

    @property
    def undecided(self) -> bool:
        """Whether there is a second that may be as fast (`Ratio.order`)."""
        return self.lead is not None and self.lead.order <= 0


def leaderboard(analysis: Analysis, baseline: str | None = None) -> list[Leader]:
    """The leader of each place at which a method is right and timed, by problem, P and settings.

    `baseline` is the label of a method, by default that of torch.func.hessian.
    """
    quantity = ["quantity"] if analysis.rows["quantity"].nunique() > 1 else []
    telling = [*quantity, *analysis.settings]
    found = []
    for _, group in analysis.rows.groupby(["family", "params", *telling], dropna=False):
        candidates = right(group)
        if len(candidates):
            settings = tuple(setting(name, group[name].iloc[0]) for name in telling)
            found.append(_leader(group, candidates, settings, baseline_of(analysis, baseline)))
    return found


def _leader(group: DataFrame, candidates: DataFrame, settings: tuple[str, ...], baseline: str | None) -> Leader:
    """The leader among the candidates, which are the right rows of the group."""
    fastest = contest(candidates) if candidates["label"].nunique() > 1 else None
    label = fastest.first if fastest else candidates["label"].iloc[0]
    second = fastest.second if fastest else None
    own = candidates[candidates["label"] == label]
    compared = baseline != label and baseline in set(candidates["label"])
    return Leader(
        problem=plain(group["family"].iloc[0]),
        params=group["params"].iloc[0],
        settings=settings,
        method=plain(label),
        time_s=own["median_s"].median(),
        peak_bytes=own["tensor_peak_bytes"].median(),
        second=plain(second) if second is not None else None,
        lead=fastest.lead if fastest else None,
        baseline_status=_status(group[group["label"] == baseline]),
        over_baseline=between(candidates, label, str(baseline)) if compared else None,
        contended=bool(group.loc[group["label"].isin((label, second)), "contended"].any()),
        unsafe=bool(own["warning"].notna().any()),
        wrong=_wrong(group),
    )


def _status(rows: DataFrame) -> str | None:
    """The first status of a method's rows that is not ok, else ok; None without rows."""
    statuses = rows["status"].sort_values(key=lambda status: status.eq("ok"), kind="stable")
    return str(statuses.iloc[0]) if len(statuses) else None


def _wrong(group: DataFrame) -> tuple[SilentlyWrong, ...]:
    """The methods of a place that are measured and not right, each with its largest error."""
    bad = group[group["status"].isin(MEASURED_BUT_NOT_RIGHT)]
    errors = bad["relative_error"].where(bad["relative_error"] > bad["tolerance"].fillna(0))
    worst = bad.assign(error=errors).sort_values("error", ascending=False).drop_duplicates("label")
    return tuple(
        SilentlyWrong(plain(row["label"]), str(row["status"]), math.nan if pandas.isna(row["error"]) else row["error"])
        for _, row in worst.iterrows()
    )
