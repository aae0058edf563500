"""What the statuses and the errors of a benchmark cell say about a candidate, whatever its times."""

from __future__ import annotations

from pandas import DataFrame, Series

# A status with a higher number is worse.
SEVERITY = {"ok": 0, "unsupported": 1, "oom": 2, "timeout": 2, "error": 2, "crashed": 3, "nonfinite": 3, "wrong": 3}
TRANSIENT = ("timeout", "oom", "crashed")  # what other programs on the machine may do to a process
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
