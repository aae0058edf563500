"""How time and memory grow with P: powers of P through what was measured, their exponents with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from pandas import DataFrame
from scipy import special, stats

from harness.analysis.table import SETTINGS, Analysis, differing, setting
from harness.record import plain

FEWEST = 4  # sizes that a line is fitted to: with three, the interval is 12.7 standard errors to either side
BEYOND = 10.0  # times the largest P measured, up to which a fit is followed
LEVEL = 0.95
MEASURES = {"time": "median_s", "tensor peak": "tensor_peak_bytes", "process peak": "process_peak_bytes"}
OF_A_FIT = ["params", "status", "device", *MEASURES.values()]  # columns that a fit is made of


@dataclass(frozen=True)
class Fit:
    """A power of P through the measurements of one method: least squares on logarithms, its interval by Student's t."""

    problem: str  # with the settings in which the records differ
    method: str
    measure: str  # of MEASURES
    sizes: int
    exponent: float
    low: float  # of its 95 % interval
    high: float
    intercept: float  # natural logarithm of the measure (s or bytes) at P = 1
    residual: float  # standard deviation of the measurements' logarithms about the line
    mean: float  # of log P
    spread: float  # sum of squares of log P about its mean
    largest: float  # P measured

    @property
    def grows(self) -> bool:
        """Whether the exponent's interval lies above 0."""
        return self.low > 0

    def reaches(self, value: float, quantile: float = 0.5) -> float:
        """The P at which a measure that grows reaches a value, so surely (Fieller's theorem, first order).

        0.5: where the line does. At most BEYOND times the largest P measured.
        """
        at = (math.log(value) - self.intercept) / self.exponent
        away = self.residual / self.exponent
        width = away * math.sqrt(1 + 1 / self.sizes + (at - self.mean) ** 2 / self.spread)
        at += float(stats.t.ppf(1 - quantile, self.sizes - 2)) * width
        return math.exp(min(at, math.log(BEYOND * self.largest)))


def fits(analysis: Analysis) -> list[Fit]:
    """A fit for each method and measure with FEWEST sizes or more."""
    found = []
    for problem, rows in problems(analysis, ["cell"]):
        cells = analysis.cells_of(rows, ["label", *OF_A_FIT])
        for label, right in cells[cells["status"] == "ok"].groupby("label"):
            fitted = (fit(right, measure, problem, plain(label)) for measure in MEASURES)
            found += [line for line in fitted if line is not None]
    return found


def fit(rows: DataFrame, measure: str, problem: str = "", method: str = "") -> Fit | None:
    """The fit to one method's right rows out of `Analysis.cells`; None with fewer sizes than FEWEST.

    The process peak of a GPU's rows is the host's, which tells nothing.
    """
    column = MEASURES[measure]
    params, values = rows["params"].to_numpy(float), rows[column].to_numpy(float)
    known = (params > 0) & (values > 0)
    if measure == "process peak":
        known &= (rows["device"] == "cpu").to_numpy(bool)
    sizes = numpy.unique(params[known])
    if len(sizes) < FEWEST:
        return None
    if len(sizes) == known.sum():
        medians = values[known][numpy.argsort(params[known])]
    else:
        medians = numpy.array([numpy.median(values[known & (params == size)]) for size in sizes])
    x, y = numpy.log(sizes), numpy.log(medians)
    away = x - x.mean()
    spread = float(away @ away)
    slope = float(away @ y) / spread
    intercept = float(y.mean() - slope * x.mean())
    left = y - intercept - slope * x
    residual = math.sqrt(float(left @ left) / (len(x) - 2))
    half = float(special.stdtrit(len(x) - 2, (1 + LEVEL) / 2)) * residual / math.sqrt(spread)
    return Fit(
        problem=problem,
        method=method,
        measure=measure,
        sizes=len(x),
        exponent=slope,
        low=slope - half,
        high=slope + half,
        intercept=intercept,
        residual=residual,
        mean=float(x.mean()),
        spread=spread,
        largest=float(sizes[-1]),
    )


def problems(
    analysis: Analysis, columns: Sequence[str], settings: Sequence[str] = tuple(SETTINGS)
) -> Iterator[tuple[str, DataFrame]]:
    """The prepared rows of known P by family of problems, quantity and these settings; each group with its name.

    A group has these columns of a hundred, and those that make it.
    """
    rows = analysis.rows
    rows = rows[rows["params"].notna()]
    keys = ["family", *(["quantity"] if rows["quantity"].nunique() > 1 else []), *differing(rows, settings)]
    for values, group in rows[list(dict.fromkeys([*keys, *columns]))].groupby(keys, dropna=False):
        names = [plain(values[0]), *map(setting, keys[1:], values[1:])]
        yield ", ".join(names), group
