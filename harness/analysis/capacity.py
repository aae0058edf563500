"""The largest P that fits into a given memory: by the fitted growth of what was measured, and by what ran out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from pandas import DataFrame

from harness.analysis.fits import BEYOND, MEASURES, Fit, fit, places
from harness.analysis.table import SETTINGS, Analysis
from harness.record import plain
from harness.text import rounded, two_digits

PEAKS = ("tensor peak", "process peak")  # of MEASURES; the process holds its tensors, so that both must fit
OUT, ABOVE = "ran out of memory there", "measured above the memory there"
FURTHEST, CONSTANT = "fit followed no further", "does not grow measurably"


@dataclass(frozen=True)
class Capacity:
    """What fits into `memory_gb` for one way."""

    place: str  # problem and settings
    way: str
    memory_gb: float
    measure: str  # of PEAKS: that which reaches the memory first, by its fit or, where ABOVE, as it was measured
    params: float  # P; NaN where the measure does not grow measurably
    low: float  # of its 95 % interval
    high: float
    note: str = ""  # OUT, ABOVE, FURTHEST or CONSTANT, where P is not that at which the fit reaches the memory

    def __str__(self) -> str:
        if self.note == CONSTANT:
            return f"{self.place}: the {self.measure} of {self.way} does not grow measurably with P"
        size = rounded(self.params)
        said = f"up to P = {size} ({rounded(self.low)} to {rounded(self.high)}), by its {self.measure}"
        if self.note == OUT:
            said = f"below P = {self.params:,.0f}, where it ran out of memory"
        elif self.note == ABOVE:
            said = f"below P = {self.params:,.0f}, where its {self.measure} was measured above that"
        elif self.note == FURTHEST:
            said = f"at P = {size}, the furthest that the fit of its {self.measure} is followed"
        return f"{self.place}: {self.way} fits into {self.memory_gb:g} GB {said}"


def capacities(analysis: Analysis, memory_gb: float) -> list[Capacity]:
    """For each way with a fit: `mlp: vmap_hvp fits into 8 GB up to P = 21,000 (19,000 to 23,000), by its tensor peak`.

    The peaks are above the start of the call. A fit is followed up to BEYOND times the largest P measured, and never
    past a P that ran out of at least as much memory, nor against a peak that was measured.
    """
    whatever_the_limit = [name for name in SETTINGS if name != "memory_limit"]
    return [
        seen
        for place, rows in places(analysis, whatever_the_limit)
        for way, own in rows.groupby("label")
        if (seen := _capacity(own, analysis.cells_of(own), place, plain(way), memory_gb)) is not None
    ]


def _capacity(rows: DataFrame, cells: DataFrame, place: str, way: str, memory_gb: float) -> Capacity | None:
    found = [seen for measure in PEAKS if (seen := fit(cells, measure, place, way)) is not None]
    if not found:
        return None
    limit = 1e9 * memory_gb
    growing = [seen for seen in found if seen.grows]
    if not growing:
        return Capacity(place, way, memory_gb, found[-1].measure, math.nan, math.nan, math.nan, CONSTANT)
    first = min(growing, key=lambda seen: seen.reaches(limit))
    out = _ran_out(rows, limit)
    held, over, largest = _measured(cells, found, limit)
    end = min(over, out)
    most, low, high = (float(numpy.clip(first.reaches(limit, quantile), held, end)) for quantile in (0.5, 0.975, 0.025))
    if two_digits(most) >= end:  # to the digits that are shown, it is a P that did not fit
        note, measure = (OUT, first.measure) if out <= over else (ABOVE, largest)
        return Capacity(place, way, memory_gb, measure, end, low, end, note)
    note = FURTHEST if most >= BEYOND * first.largest * (1 - 1e-9) else ""
    return Capacity(place, way, memory_gb, first.measure, most, low, high, note)


def _ran_out(rows: DataFrame, limit: float) -> float:
    """The least P that ran out of `limit` bytes or more, or of memory of unknown size; infinite where none did."""
    failed = rows[rows["status"] == "oom"]
    ram = failed["ram_bytes"].where(failed["device"] == "cpu")
    had = (failed["memory_limit_gb"] * 1e9).fillna(ram).fillna(math.inf)
    return float(failed.loc[had >= limit, "params"].min()) if (had >= limit).any() else math.inf


def _measured(cells: DataFrame, found: list[Fit], limit: float) -> tuple[float, float, str]:
    """The largest P whose measured peaks are within the limit, 0 for none; the least above it, its largest peak's name.

    Infinity and no name where none is above it.
    """
    right = cells[cells["status"] == "ok"].rename(columns={MEASURES[seen.measure]: seen.measure for seen in found})
    peaks = right.groupby("params")[[seen.measure for seen in found]].max()
    above = peaks[peaks.max(axis=1) > limit]
    over = float(above.index[0]) if len(above) else math.inf
    held = peaks.index[(peaks.max(axis=1) <= limit) & (peaks.index < over)]
    return float(held.max()) if len(held) else 0.0, over, str(above.iloc[0].idxmax()) if len(above) else ""
