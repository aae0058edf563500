"""The largest P that fits into a given memory: by the fitted growth of what was measured, and by what ran out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from pandas import DataFrame

from harness.analysis.fits import BEYOND, MEASURES, OF_A_FIT, Fit, fit, problems
from harness.analysis.table import SETTINGS, Analysis
from harness.record import plain
from harness.text import two_digits

PEAKS = ("tensor peak", "process peak")  # of MEASURES; the process holds its tensors, so that both must fit
OUT_OF_MEMORY = ["status", "params", "device", "ram_bytes", "memory_limit_gb"]  # columns of `_ran_out`
OUT, ABOVE = "ran out of memory there", "measured above the memory there"
FURTHEST, CONSTANT = "fit followed no further", "does not grow measurably"
RESULT = "the result alone fills the memory there"


@dataclass(frozen=True)
class Capacity:
    """What fits into `memory_gb` for one method."""

    problem: str  # with the settings in which the records differ
    method: str
    memory_gb: float
    measure: str  # of PEAKS: that which reaches the memory first, by its fit or, where ABOVE, as it was measured
    params: float  # P; NaN where the measure does not grow measurably
    low: float  # of its 95 % interval
    high: float
    note: str = (
        ""  # OUT, ABOVE, FURTHEST or CONSTANT: P is not where the fit reaches the memory; RESULT: why it is there
    )


def capacities(analysis: Analysis, memory_gb: float) -> list[Capacity]:
    """The capacity of each method whose memory has a fit.

    The peaks are above the start of the call. A fit is followed up to BEYOND times the largest P measured, and never
    past a P that ran out of at least as much memory, nor against a peak that was measured.
    """
    whatever_the_limit = [name for name in SETTINGS if name != "memory_limit"]
    found = []
    for problem, rows in problems(analysis, ["cell", "label", *OUT_OF_MEMORY], whatever_the_limit):
        for label, own in rows.groupby("label"):
            cells = analysis.cells_of(own, [*OF_A_FIT, "output_bytes"])
            right = cells[cells["status"] == "ok"]
            capacity = _capacity(own, right, problem, plain(label), memory_gb)
            if capacity is not None:
                found.append(capacity)
    return found


def _capacity(rows: DataFrame, right: DataFrame, problem: str, method: str, memory_gb: float) -> Capacity | None:
    """The capacity of one method by its rows and those of its cells that are right; None without a fit."""
    fitted = [line for measure in PEAKS if (line := fit(right, measure, problem, method)) is not None]
    if not fitted:
        return None
    limit = 1e9 * memory_gb
    growing = [line for line in fitted if line.grows]
    if not growing:
        return Capacity(problem, method, memory_gb, fitted[-1].measure, math.nan, math.nan, math.nan, CONSTANT)
    first = min(growing, key=lambda line: line.reaches(limit))
    out = _ran_out(rows, limit)
    held, over, largest = _measured(right, fitted, limit)
    end = min(over, out)
    most, low, high = (float(numpy.clip(first.reaches(limit, quantile), held, end)) for quantile in (0.5, 0.975, 0.025))
    if two_digits(most) >= end:  # to the digits that are shown, it is a P that did not fit
        note, measure = (OUT, first.measure) if out <= over else (ABOVE, largest)
        return Capacity(problem, method, memory_gb, measure, end, low, end, note)
    note, filled = "", _filled_by_result(right, limit)
    if most >= BEYOND * first.largest * (1 - 1e-9):
        note = FURTHEST
    elif filled is not None and two_digits(most) >= two_digits(filled):
        note = RESULT
    return Capacity(problem, method, memory_gb, first.measure, most, low, high, note)


def _ran_out(rows: DataFrame, limit: float) -> float:
    """The least P that ran out of `limit` bytes or more, or of memory of unknown size; infinite where none did."""
    failed = rows[rows["status"] == "oom"]
    ram = failed["ram_bytes"].where(failed["device"] == "cpu")
    had = (failed["memory_limit_gb"] * 1e9).fillna(ram).fillna(math.inf)
    return float(failed.loc[had >= limit, "params"].min()) if (had >= limit).any() else math.inf


def _measured(right: DataFrame, fitted: list[Fit], limit: float) -> tuple[float, float, str]:
    """The largest P whose measured peaks are within the limit, 0 for none; the least above it, its largest peak's name.

    Infinity and no name where none is above it.
    """
    named = right.rename(columns={MEASURES[line.measure]: line.measure for line in fitted})
    peaks = named.groupby("params")[[line.measure for line in fitted]].max()
    above = peaks[peaks.max(axis=1) > limit]
    over = float(above.index[0]) if len(above) else math.inf
    held = peaks.index[(peaks.max(axis=1) <= limit) & (peaks.index < over)]
    return float(held.max()) if len(held) else 0.0, over, str(above.iloc[0].idxmax()) if len(above) else ""


def _filled_by_result(right: DataFrame, limit: float) -> float | None:
    """The P at which the result alone takes `limit` bytes; None where the records do not show how it grows."""
    known = right[(right["params"] > 0) & (right["output_bytes"] > 0)]
    sizes = known.groupby("params")["output_bytes"].median()
    if sizes.nunique() < 2:
        return None
    exponent, intercept = numpy.polyfit(numpy.log(sizes.index.to_numpy(float)), numpy.log(sizes.to_numpy(float)), 1)
    return math.exp((math.log(limit) - intercept) / exponent)
