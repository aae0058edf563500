"""Performance profiles: how many times as long as the fastest right method each method takes, over many cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from pandas import DataFrame

from harness.analysis.table import CELL, Analysis
from harness.record.identity import METHOD, SAMPLED

FEWEST = 5  # cells of a profile


@dataclass(frozen=True)
class Profile:
    """Dolan and More, "Benchmarking optimization software with performance profiles", Math. Program. 91 (2002).

    They have every method run on every cell. Where FEWEST cells or more are such, a profile is of these; else each
    method's share is of the cells that it was run on.
    """

    times: DataFrame  # a row a cell, a column a method: time over the best; infinite where it failed or is wrong
    cells: int  # that some method is right on

    @property
    def whole(self) -> bool:
        """Whether every method was run on every cell of it."""
        return bool(self.times.notna().all(axis=None))

    @property
    def order(self) -> list[str]:
        """The methods: those that are fastest in most cells first, then those that are right in most."""
        return sorted(map(str, self.times), key=lambda name: (-self.fastest(name), -self.right(name)))

    def of(self, method: str) -> numpy.ndarray:
        """The times over the best of the cells that the method was run on."""
        return self.times[method].dropna().to_numpy()

    def fastest(self, method: str) -> float:
        """The share of its cells in which the method has the least median time of those that are right."""
        return float((self.of(method) <= 1).mean())

    def right(self, method: str) -> float:
        """The share of its cells in which the method is right."""
        return float(numpy.isfinite(self.of(method)).mean())


def profile(analysis: Analysis) -> Profile | None:
    """The performance profile; None with fewer than FEWEST cells or two methods."""
    if not analysis.frame["median_s"].notna().any():
        return None
    every = times_over_best(analysis)
    if len(every) < FEWEST or every.shape[1] < 2:
        return None
    complete = every.dropna()
    shown = complete if len(complete) >= FEWEST else every
    return Profile(shown.dropna(axis=1, how="all"), len(every))


def times_over_best(analysis: Analysis) -> DataFrame:
    """Each method's median time over that of the best right one: a row a cell, a column a method.

    What failed or is wrong is infinite; what was not run, or not timed, is NaN. Cells in which nothing is right are
    left out, and so is what is not ranked. Cells of a cluster's nodes are cells of their own.
    """
    where = [*(column for column in CELL if column not in (*METHOD, *SAMPLED, "packages")), "node"]
    rows = analysis.ranked[[*where, "label", "median_s"]].assign(right=analysis.ranked["status"].eq("ok"))
    cells = rows.groupby([*where, "label"], dropna=False)
    times, right = cells["median_s"].median(), cells["right"].all()
    table = times.where(times > 0).where(right, numpy.inf).unstack("label")
    best = table.min(axis=1)
    known = numpy.isfinite(best)
    return table[known].div(best[known], axis=0)
