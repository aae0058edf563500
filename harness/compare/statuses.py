"""What the statuses and the errors of a benchmark cell say about a candidate, whatever its times."""

from __future__ import annotations

from pandas import DataFrame, Series

from harness.compare.process_times import cut_off, sampled

# A status with a higher number is worse.
SEVERITY = {"ok": 0, "unsupported": 1, "oom": 2, "timeout": 2, "error": 2, "crashed": 3, "nonfinite": 3, "wrong": 3}
TRANSIENT = ("timeout", "oom", "crashed")  # what other programs on the machine may do to a process
CUT_OFF = "the time limit struck before a second call ended"
ERROR_GREW = 10.0  # an error that is larger by this factor, though tolerated, is a change of the computation


def standing(records: DataFrame) -> Series:
    """The record whose status stands for a cell: the worst, but a TRANSIENT one only if most processes have one.

    Most of those that ran the same passes: only these can end in a pass that the others did not run.
    """
    transient = records["status"].isin(TRANSIENT)
    share = transient.groupby(records["passes"].fillna("?")).transform("mean")
    counted = records[~transient | (share > 0.5)]
    return counted.iloc[int(counted["status"].map(SEVERITY).to_numpy().argmax())]


def by_status(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Verdict and reason where baseline or candidate is not ok, or its error grew; else None."""
    before, after = standing(base), standing(candidate)
    if before["status"] == "ok" and after["status"] == "ok":
        return _by_error(base, candidate)
    if before["status"] == after["status"]:
        return "same", f"{after['status']} in both"
    message = (before if after["status"] == "ok" else after)["message"]
    reason = f"{before['status']} to {after['status']}{f': {message}' if message else ''}"
    if SEVERITY[after["status"]] > SEVERITY[before["status"]]:
        return "broken", reason
    return "fixed" if after["status"] == "ok" else "same", reason


def _by_error(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Verdict and reason where the error grew by ERROR_GREW and above a hundredth of the tolerance; else None."""
    before, after = base["relative_error"].max(), candidate["relative_error"].max()
    tolerance = candidate["tolerance"].max()
    negligible = tolerance / 100 if tolerance > 0 else 0.0
    if after > max(ERROR_GREW * before, negligible):
        return "broken", f"relative error {before:.1e} to {after:.1e}"
    return None


def by_time_limit(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Broken where the time limit cut off most timed processes of the candidate, but not of the baseline; else None."""
    if not _mostly_cut_off(candidate) or _mostly_cut_off(base) or not sampled(base).any():
        return None
    return "broken", f"{CUT_OFF} in {cut_off(candidate).sum()} of {len(candidate)} processes of the candidate"


def _mostly_cut_off(records: DataFrame) -> bool:
    return bool(cut_off(records).sum() > sampled(records).sum())
