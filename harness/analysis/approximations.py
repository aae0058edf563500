"""Approximations beside the fastest exact method: what each costs, and how far off it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.curves import panels
from harness.analysis.fronts import front
from harness.analysis.table import APPROXIMATE, Analysis
from harness.record import plain

# Medians over the cells of a method (of several seeds, say).
MEASURED = [
    "median_s",
    "tensor_peak_bytes",
    "relative_error",
    "cosine",
    "newton_error",
    "logdet_error",
]
OF_ZEROS = 1.0  # relative error of a matrix of zeros, which costs nothing


@dataclass(frozen=True)
class Compared:
    """The approximations of one matrix: of a problem with one P, quantity and choice of settings."""

    title: str  # with P
    approximations: DataFrame  # label, MEASURED, contended, and `worth`; the least relative error first
    exact: str | None  # printable: the exact method with the least median time; None where none was timed and right
    exact_s: float  # its time in seconds; NaN without one

    @property
    def worth(self) -> list[str]:
        """The approximations that cost less than the exact matrix, and that neither zeros nor any other one beats."""
        return self.approximations.loc[self.approximations["worth"], "label"].tolist()


def compared(analysis: Analysis) -> list[Compared]:
    """The approximations of each matrix that has some, in the order of problems, quantities, settings and P."""
    found = []
    for panel in panels(analysis):
        for params, cells in panel.cells.groupby("params"):
            approximate = cells[cells["status"] == APPROXIMATE]
            if len(approximate):
                found.append(_compared(f"{panel.title}, P = {params:.0f}", approximate, cells[cells["status"] == "ok"]))
    return found


def _compared(title: str, approximate: DataFrame, right: DataFrame) -> Compared:
    times = right.groupby("label")["median_s"].median().dropna()
    exact = None if times.empty else str(times.idxmin())
    exact_s = math.nan if exact is None else float(times[exact])
    groups = approximate.astype(dict.fromkeys(MEASURED, "float")).groupby("label")
    table = groups[MEASURED].median().join(groups["contended"].any()).reset_index()
    points = table.assign(x=table["median_s"], y=table["relative_error"]).dropna(subset=["x", "y"])
    useful = points[(points["y"] < OF_ZEROS) & ~(points["x"] >= exact_s)]
    table["worth"] = table["label"].isin(front(useful)["label"])
    table["label"] = table["label"].map(plain)
    ordered = table.sort_values("relative_error", ignore_index=True)
    return Compared(title, ordered, None if exact is None else plain(exact), exact_s)
