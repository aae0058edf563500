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
    struck = base["status"].isin(TRANSIENT)
    if after["status"] in TRANSIENT and before["status"] == "ok" and struck.any():
        return "undecided", f"{reason}; {struck.sum()} of {len(base)} processes of the baseline ended so too"
    if SEVERITY[after["status"]] > SEVERITY[before["status"]]:
        return "broken", reason
    return "fixed" if after["status"] == "ok" else "same", reason


def _by_error(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Verdict and reason where the error grew by ERROR_GREW and above a hundredth of the tolerance; else None."""
    before, after = _errors(base).max(), _errors(candidate).max()
    tolerance = candidate["tolerance"].max()
    negligible = tolerance / 100 if tolerance > 0 else 0.0
    if after > max(ERROR_GREW * before, negligible):
        return "broken", f"relative error {before:.1e} to {after:.1e}"
    return None


def _errors(records: DataFrame) -> Series:
    """What each result states of its error, since the true error of an estimate is chance; else the true one."""
    return records["stated_error"].fillna(records["standard_error"]).fillna(records["relative_error"])


def by_time_limit(base: DataFrame, candidate: DataFrame) -> tuple[str, str] | None:
    """Broken where the time limit cut off most timed processes of the candidate, and none of the baseline; else None.

    Where it cut off few of the baseline, the cell is undecided.
    """
    if cut_off(candidate).sum() <= sampled(candidate).sum() or not sampled(base).any():
        return None
    reason = f"{CUT_OFF} in {cut_off(candidate).sum()} of {len(candidate)} processes of the candidate"
    if cut_off(base).any():
        return "undecided", f"{reason}, and in {cut_off(base).sum()} of {len(base)} of the baseline"
    return "broken", reason
