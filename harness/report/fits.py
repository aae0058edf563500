"""How time and memory grow with P: fitted exponents, the sizes from which one way is faster, the largest that fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from pandas import DataFrame
from scipy import stats

from harness.report.rows import differing, environment, escaped, over_processes, plain, prepared, setting, significant

FEWEST = 3  # sizes that a line is fitted to
BEYOND = 10.0  # times the largest P measured, up to which a fit is followed
LEVEL = 0.95
MEASURES = {"time": "median_s", "tensor peak": "tensor_peak_bytes"}


@dataclass(frozen=True)
class Fit:
    """A power of P through the measurements of one way: least squares on logarithms, the interval by Student's t."""

    place: str  # problem and settings
    way: str
    measure: str  # of MEASURES
    sizes: int
    exponent: float
    low: float  # of its 95 % interval
    high: float
    intercept: float  # natural logarithm of the measure (s or bytes) at P = 1
    residual: float  # standard deviation of the measurements' logarithms about the line
    mean: float  # of log P
    spread: float  # sum of squares of log P about it
    largest: float  # P measured

    def reaches(self, value: float, quantile: float = 0.5) -> float:
        """The P at which the measure reaches a value, so surely (Fieller's theorem, first order); 0.5: the line's."""
        at = (math.log(value) - self.intercept) / self.exponent
        away = self.residual / self.exponent
        width = away * math.sqrt(1 + 1 / self.sizes + (at - self.mean) ** 2 / self.spread)
        return math.exp(at + float(stats.t.ppf(1 - quantile, self.sizes - 2)) * width)


def fits(frame: DataFrame) -> list[Fit]:
    """A fit for each way and measure with FEWEST sizes or more, from a frame of `harness.record.load`."""
    found = (
        _fit(place, plain(way), measure, rows, column)
        for place, group in _places(frame)
        for way, rows in group.groupby("label")
        for measure, column in MEASURES.items()
    )
    return [fit for fit in found if fit is not None]


def _fit(place: str, way: str, measure: str, rows: DataFrame, column: str) -> Fit | None:
    known = rows[(rows["params"] > 0) & (rows[column] > 0)].groupby("params")[column].median()
    if len(known) < FEWEST:
        return None
    x, y = numpy.log(known.index.to_numpy(float)), numpy.log(known.to_numpy(float))
    line: Any = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 2)) * line.stderr
    left = y - line.intercept - line.slope * x
    return Fit(place, way, measure, len(x), line.slope, line.slope - half, line.slope + half, line.intercept,
               math.sqrt(float(left @ left) / (len(x) - 2)), float(x.mean()), float(((x - x.mean()) ** 2).sum()),
               float(known.index.max()))  # fmt: skip


def crossovers(frame: DataFrame) -> list[str]:
    """`mlp: vmap_hvp is faster than func_hessian from P = 1,300`: where the order of two ways changes for good.

    Between the sizes measured by interpolation on logarithms.
    """
    told = []
    for place, group in _places(frame):
        times = group.pivot_table(index="params", columns="label", values="median_s", aggfunc="median")
        for one, other in itertools.combinations(times.columns, 2):
            ratio = (times[one] / times[other]).map(math.log).dropna()
            signs = numpy.sign(ratio.to_numpy())
            changes = numpy.flatnonzero(signs[1:] != signs[:-1])
            if not len(changes) or signs[-1] == 0:
                continue
            before = changes[-1]
            x, y = numpy.log(ratio.index.to_numpy(float))[before : before + 2], ratio.to_numpy()[before : before + 2]
            at = math.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0]))
            faster, slower = (one, other) if signs[-1] < 0 else (other, one)
            told.append(f"{place}: {plain(faster)} is faster than {plain(slower)} from P = {_rounded(at)} on")
    return told


def largest(frame: DataFrame, memory_gb: float) -> list[str]:
    """`mlp: vmap_hvp fits into 8 GB up to P = 21,000 (19,000 to 23,000)`: by the fit of the tensor peak.

    Followed up to BEYOND times the largest P measured.
    """
    told = []
    for fit in fits(frame):
        if fit.measure != "tensor peak" or fit.exponent <= 0:
            continue
        most, low, high = (fit.reaches(memory_gb * 1e9, quantile) for quantile in (0.5, 0.975, 0.025))
        end = BEYOND * fit.largest
        said = f"up to P = {_rounded(most)} ({_rounded(low)} to {_rounded(high)})"
        if most > end:
            said = f"at P = {_rounded(end)}, the furthest that the fit is followed"
        told.append(f"{fit.place}: {fit.way} fits into {memory_gb:g} GB {said}")
    return told


def markdown(frame: DataFrame, memory_gb: float | None) -> str:
    """All of them; empty where there is nothing to say."""
    found, crossed = fits(frame), crossovers(frame)
    fitting = [] if memory_gb is None else largest(frame, memory_gb)
    parts = []
    if found:
        columns = ("where", "way", "measure", "sizes", "exponent", "95 % interval")
        rows = [(fit.place, fit.way, fit.measure, str(fit.sizes), f"{fit.exponent:.2f}",
                 f"{fit.low:.2f} to {fit.high:.2f}") for fit in found]  # fmt: skip
        table = DataFrame(rows, columns=columns).map(escaped).to_markdown(index=False, disable_numparse=True)
        parts.append(
            f"# Growth with P\n\nThe measure grows as P to the exponent: least squares on logarithms.\n\n{table}"
        )
    for title, lines in (("Which is faster from where", crossed), ("What fits", fitting)):
        if lines:
            parts.append(f"# {title}\n\n" + "\n".join(f"- {escaped(line)}" for line in lines))
    return "\n\n".join([*parts, f"{environment(prepared(frame))}.\n"]) if parts else ""


def _places(frame: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """The rows that are right, by problem and setting, which are named."""
    rows = over_processes(prepared(frame))
    rows = rows[(rows["status"] == "ok") & rows["params"].notna()]
    keys = ["problem", *(["quantity"] if rows["quantity"].nunique() > 1 else []), *differing(rows)]
    for values, group in rows.groupby(keys, dropna=False):
        told = [plain(values[0]), *(setting(key, value) for key, value in zip(keys[1:], values[1:], strict=True))]
        yield ", ".join(told), group


def _rounded(size: float) -> str:
    """Two significant digits, with thousands apart."""
    return f"{float(significant(size)) if size < 100 else round(size, 1 - int(math.log10(size))):,.0f}"
