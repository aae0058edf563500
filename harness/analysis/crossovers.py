"""From which P on one way is faster than another, where more than noise says so."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas
from pandas import DataFrame

from harness.analysis.fits import places
from harness.analysis.ratios import ratio
from harness.analysis.table import Analysis
from harness.record import plain
from harness.text import rounded


@dataclass(frozen=True)
class Crossover:
    """Where the order of two ways changes for good."""

    place: str  # problem and settings
    faster: str
    slower: str
    params: float  # P, interpolated on logarithms between the next two
    low: float  # the largest P measured at which the slower one is still faster, beyond doubt
    high: float  # the least P measured from which on the order is the other one, beyond doubt
    processes: int  # fewest at those two

    def __str__(self) -> str:
        alone = "; one process a cell" if self.processes == 1 else ""
        return (
            f"{self.place}: {self.faster} is faster than {self.slower} from P = {rounded(self.params)} on "
            f"(between {self.low:,.0f} and {self.high:,.0f}{alone})"
        )


def crossovers(analysis: Analysis) -> list[Crossover]:
    """All that the records show: `mlp: a is faster than b from P = 1,300 on (between 800 and 1,600)`.

    A size decides where the ratio of two right ways has an `order` (`harness.analysis.ratios`). The two ways must be
    decided on both sides, and at the largest P that both have.
    """
    found = []
    for place, rows in places(analysis):
        right = rows.groupby(["label", "params"])["status"].transform(lambda seen: seen.eq("ok").all())
        rows = rows[right & (rows["median_s"] > 0)]
        cells: dict[str, dict[float, DataFrame]] = {}
        for _, cell in rows.groupby(["label", "params"]):
            cells.setdefault(str(cell["label"].iloc[0]), {})[float(cell["params"].iloc[0])] = cell
        for one, other in itertools.combinations(sorted(way for way in cells if len(cells[way]) > 1), 2):
            sizes = sorted(cells[one].keys() & cells[other].keys())
            seen = {size: ratio(cells[one][size], cells[other][size]) for size in sizes}
            crossed = _last_change({size: value.order for size, value in seen.items()})
            if crossed is not None:
                low, high = crossed
                faster, slower = (one, other) if seen[high].order > 0 else (other, one)
                at = _between(low, high, seen[low].value, seen[high].value)
                found.append(
                    Crossover(
                        place,
                        plain(faster),
                        plain(slower),
                        at,
                        low,
                        high,
                        min(seen[low].processes, seen[high].processes),
                    )
                )
    return found


def _last_change(orders: dict[float, int]) -> tuple[float, float] | None:
    """Of orders by ascending size: the last two sizes next to each other, but for undecided ones, with other orders."""
    decided = pandas.Series(orders, dtype="int")
    decided = decided[decided != 0]
    if not len(decided) or orders[max(orders)] == 0 or decided.nunique() == 1:
        return None
    low = decided.index[decided != decided.iloc[-1]].max()
    return low, decided.index[decided.index > low].min()


def _between(low: float, high: float, at_low: float, at_high: float) -> float:
    """Where the ratio is 1, on the straight line between two sizes in logarithms."""
    share = math.log(at_low) / (math.log(at_low) - math.log(at_high))
    return low * (high / low) ** share
