"""The methods that are right at one place: which of them leads, and by how much."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy
from pandas import DataFrame

from harness.analysis.ratios import OF_A_RATIO, Ratio, Times, ratio, times_by
from harness.analysis.table import Analysis

MEASURED_BUT_NOT_RIGHT = ("wrong", "nonfinite")
# Columns of a place's rows, beside those that make a place.
OF_A_PLACE = [
    "cell",
    "label",
    "status",
    "warning",
    "contended",
    "tensor_peak_bytes",
    "relative_error",
    "tolerance",
    *OF_A_RATIO,
]


@dataclass(frozen=True)
class Contest:
    """The methods that are right and timed at one place, by their labels."""

    leader: str
    leads: dict[str, Ratio]  # by each other label, the nearest first: how many times as fast the leader is

    @property
    def second(self) -> str | None:
        """The next fastest; None where there is no other."""
        return next(iter(self.leads), None)

    def p_fastest(self) -> float:
        """The p-value of the claim that the leader is faster than each other method, which is that of its least lead.

        NaN without others, or where one of them has only one process. That any of them might have led needs no
        correction: to lead by chance, a method must beat all others (Gutmann & Maymin 1987, Ann. Statist. 15).
        """
        return max([lead.p_of(1) for lead in self.leads.values()], key=_nan_last, default=math.nan)

    def p_slower(self, label: str) -> float:
        """The p-value of the claim that this method is slower than the leader, for as many as might have led instead.

        NaN where one of the two has only one process.
        """
        return float(numpy.minimum(1.0, len(self.leads) * self.leads[label].p_of(1)))


@dataclass(frozen=True)
class Place:
    """What is compared with each other: a family of problems, a P, a quantity and settings."""

    rows: DataFrame  # of `Analysis.ranked`: what makes the place, and OF_A_PLACE
    contest: Contest | None  # None where no method is right and timed


@lru_cache(maxsize=1)
def places(analysis: Analysis) -> tuple[Place, ...]:
    """The places of what is ranked, by family, quantity, settings and P; an unknown P is the last."""
    keys = ["family", "quantity", *analysis.settings, "params"]
    rows = analysis.ranked[[*keys, *OF_A_PLACE]]  # of a hundred columns
    groups = rows.groupby(keys, dropna=False)
    number = groups.ngroup()
    right = (rows["status"].eq("ok") & rows["median_s"].gt(0)).groupby([number, rows["label"]]).transform("all")
    methods: dict[int, dict[str, Times]] = defaultdict(dict)
    for (place, label), times in times_by(rows[right].assign(place=number), ["place", "label"]).items():
        methods[place][str(label)] = times
    return tuple(Place(own, contest(methods[place])) for place, (_, own) in enumerate(groups))


def contest(methods: Mapping[str, Times]) -> Contest | None:
    """The contest of these methods, which are timed and right in every process.

    The method with the least median leads, unless the next one is faster process by process. That happens after a
    drift, or where only one of the two has some of the processes.
    """
    order = sorted(methods, key=lambda label: methods[label].median_s)
    if not order:
        return None
    if len(order) > 1 and ratio(methods[order[0]], methods[order[1]]).order < 0:
        order[0], order[1] = order[1], order[0]
    leader, *others = order
    return Contest(leader, {label: ratio(methods[leader], methods[label]) for label in others})


def _nan_last(p: float) -> float:
    return math.inf if math.isnan(p) else p
