"""From which P on one method is faster than another, where the difference is beyond noise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.claims import claimed
from harness.analysis.fits import problems
from harness.analysis.ratios import OF_A_RATIO, Ratio, Times, ratio, times_by
from harness.analysis.table import Analysis
from harness.record import plain


@dataclass(frozen=True)
class Crossover:
    """Where the order of two methods changes for good."""

    problem: str  # with the settings in which the records differ
    faster: str
    slower: str
    params: float  # P, interpolated on logarithms between the next two
    low: float  # the largest P measured at which the slower one is still faster, taken alone (`Ratio.order`)
    high: float  # the least P measured from which on the order is the other one, taken alone
    processes: int  # fewest at the sizes that decide; with 1, the crossover holds no error rate


def crossovers(analysis: Analysis) -> list[Crossover]:
    """All crossovers that the records show, for each problem and each two methods that are right at several sizes.

    The ratio of two times decides a size where it has an `order` (`harness.analysis.ratios`). The order must be decided
    below and above the crossover, and at the largest P that both methods have. Of the crossovers, at most the share
    `claims.RATE` is expected to be none, apart from those by one process.
    """
    found: list[tuple[Crossover | None, float]] = []
    for problem, rows in problems(analysis, ["label", "params", "status", "ranked", *OF_A_RATIO]):
        by_method = _right_cells(rows[rows["ranked"]])
        several = sorted(method for method, cells in by_method.items() if len(cells) > 1)
        for one, other in itertools.combinations(several, 2):
            found.append(_crossover(problem, one, by_method[one], other, by_method[other]))
    made = claimed([p for _, p in found])
    return [
        crossed
        for (crossed, p), claim in zip(found, made, strict=True)
        if crossed and (claim or crossed.processes == 1)
    ]


def _right_cells(rows: DataFrame) -> dict[str, dict[float, Times]]:
    """By method and P: the times of its cell, of which every process is right and took time."""
    failed = rows[rows["status"] != "ok"]
    not_right = set(zip(failed["label"], failed["params"], strict=True))
    cells: dict[str, dict[float, Times]] = {}
    for (label, params), times in times_by(rows, ["label", "params"]).items():
        if (label, params) in not_right:
            continue
        cells.setdefault(str(label), {})[float(params)] = times
    return cells


def _crossover(
    problem: str, one: str, cells: dict[float, Times], other: str, other_cells: dict[float, Times]
) -> tuple[Crossover | None, float]:
    """Where the order of two methods changes for the last time, and the p-value of the claim that it does change.

    None and 1 where it does not change or the end is open; the p-value is NaN where one process decides a size.
    """
    sizes = sorted(cells.keys() & other_cells.keys())
    ratios = {size: ratio(cells[size], other_cells[size]) for size in sizes}
    change = _last_change({size: value.order for size, value in ratios.items()})
    if change is None:
        return None, 1.0
    low, high = change
    faster, slower = (one, other) if ratios[high].order > 0 else (other, one)
    p, processes = _evidence(list(ratios.values()))
    crossover = Crossover(
        problem=problem,
        faster=plain(faster),
        slower=plain(slower),
        params=_between(low, high, ratios[low].value, ratios[high].value),
        low=low,
        high=high,
        processes=processes,
    )
    return crossover, p


def _evidence(ratios: list[Ratio]) -> tuple[float, int]:
    """The p-value of a change of order between the last of these ratios and any other, and the processes behind it.

    The clearest of the others decides. Any of them could have been it, hence the factor.
    """
    last = ratios[-1]
    others = [seen for seen in ratios if seen.order == -last.order]
    clearest = min(others, key=lambda seen: (math.isnan(seen.p), seen.p))
    processes = min(last.processes, clearest.processes)
    return (math.nan if processes == 1 else max(last.p, min(1.0, (len(ratios) - 1) * clearest.p))), processes


def _last_change(orders: dict[float, int]) -> tuple[float, float] | None:
    """The last two decided sizes, one next to the other, with opposite orders; `orders` are by ascending size."""
    decided = {size: order for size, order in orders.items() if order != 0}
    if not decided or orders[max(orders)] == 0 or len(set(decided.values())) == 1:
        return None
    low = max(size for size, order in decided.items() if order != decided[max(decided)])
    return low, min(size for size in decided if size > low)


def _between(low: float, high: float, at_low: float, at_high: float) -> float:
    """Where the ratio is 1, on the straight line between two sizes in logarithms."""
    share = math.log(at_low) / (math.log(at_low) - math.log(at_high))
    return low * (high / low) ** share
