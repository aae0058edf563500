"""The largest P that fits into a given memory: by the fitted growth of what was measured, and by what ran out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from pandas import DataFrame, Series

from harness.report.fits import BEYOND, MEASURES, Fit, fit, places, rounded
from harness.report.rows import SETTINGS, over_processes, plain

PEAKS = ("tensor peak", "process peak")  # of MEASURES; the process holds its tensors, so that both must fit
OUT, FURTHEST, CONSTANT = "ran out of memory there", "fit followed no further", "does not grow measurably"


@dataclass(frozen=True)
class Capacity:
    """What fits into `memory_gb` for one way."""

    place: str  # problem and settings
    way: str
    memory_gb: float
    measure: str  # of PEAKS: that which reaches the memory first
    params: float  # P; NaN where the measure does not grow measurably
    low: float  # of its 95 % interval
    high: float
    note: str = ""  # OUT, FURTHEST or CONSTANT, where P is not that at which the fit reaches the memory

    def __str__(self) -> str:
        if self.note == CONSTANT:
            return f"{self.place}: the {self.measure} of {self.way} does not grow measurably with P"
        size = rounded(self.params)
        said = f"up to P = {size} ({rounded(self.low)} to {rounded(self.high)}), by its {self.measure}"
        if self.note == OUT:
            said = f"below P = {size}, where it ran out of memory"
        elif self.note == FURTHEST:
            said = f"at P = {size}, the furthest that the fit of its {self.measure} is followed"
        return f"{self.place}: {self.way} fits into {self.memory_gb:g} GB {said}"


def capacities(frame: DataFrame, memory_gb: float) -> list[Capacity]:
    """For each way with a fit: `mlp: vmap_hvp fits into 8 GB up to P = 21,000 (19,000 to 23,000), by its tensor peak`.

    The peaks are above the start of the call. A fit is followed up to BEYOND times the largest P measured, and never
    past a P that ran out of at least as much memory, nor against a peak that was measured.
    """
    whatever_the_limit = [name for name in SETTINGS if name != "memory_limit"]
    return [
        seen
        for place, rows in places(frame, whatever_the_limit)
        for way, own in rows.groupby("label")
        if (seen := _capacity(own, place, plain(way), memory_gb)) is not None
    ]


def _capacity(rows: DataFrame, place: str, way: str, memory_gb: float) -> Capacity | None:
    cells = over_processes(rows)
    found = [seen for measure in PEAKS if (seen := fit(cells, measure, place, way)) is not None]
    if not found:
        return None
    limit = 1e9 * memory_gb
    growing = [seen for seen in found if seen.grows]
    if not growing:
        return Capacity(place, way, memory_gb, found[-1].measure, math.nan, math.nan, math.nan, CONSTANT)
    first = min(growing, key=lambda seen: seen.reaches(limit))
    out = _ran_out(rows, limit)
    held, over = _measured(cells, found, limit)
    most, low, high = (float(numpy.clip(first.reaches(limit, quantile), held, min(over, out)))
                       for quantile in (0.5, 0.975, 0.025))  # fmt: skip
    note = OUT if most == out else FURTHEST if most >= BEYOND * first.largest * (1 - 1e-9) else ""
    return Capacity(place, way, memory_gb, first.measure, most, low, high, note)


def _ran_out(rows: DataFrame, limit: float) -> float:
    """The least P that ran out of `limit` bytes or more, or of memory of unknown size; infinite where none did."""
    failed = rows[rows["status"] == "oom"]
    ram = failed["ram_bytes"].where(failed["device"] == "cpu")
    had = (failed["memory_limit_gb"] * 1e9).fillna(ram).fillna(math.inf)
    return float(failed.loc[had >= limit, "params"].min()) if (had >= limit).any() else math.inf


def _measured(cells: DataFrame, found: list[Fit], limit: float) -> tuple[float, float]:
    """The largest P whose measured peaks are within the limit, 0 for none, and the least P above it, or infinity."""
    right = cells[cells["status"] == "ok"]
    peaks = right[[MEASURES[seen.measure] for seen in found]].max(axis=1).groupby(right["params"]).max()
    sizes = Series(peaks.index, index=peaks.index)
    over = sizes[peaks > limit].min()
    over = math.inf if math.isnan(over) else float(over)
    held = sizes[(peaks <= limit) & (sizes < over)].max()
    return (0.0 if math.isnan(held) else float(held)), over
