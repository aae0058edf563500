"""growth.md and growth.tex: exponents of P, where one way becomes faster than another, what fits into a memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.capacity import Capacity, capacities
from harness.analysis.crossovers import Crossover, crossovers
from harness.analysis.fits import BEYOND, FEWEST, Fit, fits
from harness.analysis.ratios import ALONE
from harness.analysis.table import Analysis
from harness.report import latex
from harness.text import escaped

EXPONENTS = f"The measure grows as P to the exponent: least squares on logarithms, from {FEWEST} sizes on"
CROSSED = f"""Told where the 95 % interval of the ratio of their times leaves out 1 on both sides, with one process a \
cell where the ratio is beyond {ALONE:g} too; P is interpolated between these sizes"""
FITTING = f"""By the fit of the tensor peak or, on the CPU, of the process peak, above the start of the call, \
whichever reaches the memory first; followed up to {BEYOND:g} times the largest P measured. The interval is of 95 %"""


@dataclass(frozen=True)
class Growth:
    """All that the records show of how cost depends on P."""

    fits: list[Fit]
    crossovers: list[Crossover]
    capacities: list[Capacity]
    of: str  # what ends the labels of its tables: the problem, where there is one
    environment: str

    def __bool__(self) -> bool:
        return bool(self.fits or self.crossovers or self.capacities)

    def markdown(self) -> str:
        """A table of the exponents and lists of the rest."""
        parts = []
        if self.fits:
            table = _exponents(self.fits).map(escaped).to_markdown(index=False, disable_numparse=True)
            parts.append(f"# Growth with P\n\n{EXPONENTS}; from, to: its 95 % interval.\n\n{table}")
        for title, meaning, found in (
            ("Which is faster from where", CROSSED, self.crossovers),
            ("What fits", FITTING, self.capacities),
        ):
            if found:
                parts.append(f"# {title}\n\n{meaning}.\n\n" + "\n".join(f"- {escaped(str(entry))}" for entry in found))
        return "\n\n".join([*parts, f"{escaped(self.environment)}.\n"])

    def latex(self) -> str:
        """A table of each."""
        tables = []
        if self.fits:
            caption = f"{latex.tex(EXPONENTS)}. From, to: its 95\\,\\% interval. {latex.tex(self.environment)}."
            tables.append(latex.listing(_exponents(self.fits), caption, f"tab:growth{self.of}"))
        if self.crossovers:
            caption = f"{latex.tex(CROSSED)}: from, to. {latex.tex(self.environment)}."
            tables.append(latex.listing(_crossed(self.crossovers), caption, f"tab:crossovers{self.of}"))
        if self.capacities:
            memory = f"The largest $P$ that fits into {self.capacities[0].memory_gb:g}\\,GB"
            caption = f"{memory}. {latex.tex(FITTING)}: from, to. {latex.tex(self.environment)}."
            tables.append(latex.listing(_fitting(self.capacities), caption, f"tab:fits{self.of}"))
        return latex.document(tables)


def growth(analysis: Analysis, memory_gb: float | None = None) -> Growth:
    """What the records show of it; what fits only into a memory that is given."""
    return Growth(
        fits(analysis),
        crossovers(analysis),
        [] if memory_gb is None else capacities(analysis, memory_gb),
        latex.problem(analysis),
        analysis.environment,
    )


def _exponents(found: list[Fit]) -> DataFrame:
    lines = [
        (
            seen.place,
            seen.way,
            seen.measure,
            str(seen.sizes),
            f"{seen.exponent:.2f}",
            f"{seen.low:.2f}",
            f"{seen.high:.2f}",
        )
        for seen in found
    ]
    return DataFrame(lines, columns=["where", "way", "measure", "sizes", "exponent", "from", "to"])


def _crossed(found: list[Crossover]) -> DataFrame:
    lines = [
        (
            seen.place,
            seen.faster,
            seen.slower,
            f"{seen.params:.0f}",
            f"{seen.low:.0f}",
            f"{seen.high:.0f}",
            str(seen.processes),
        )
        for seen in found
    ]
    return DataFrame(lines, columns=["where", "faster", "than", "P", "from", "to", "processes"])


def _fitting(found: list[Capacity]) -> DataFrame:
    lines = [
        (
            seen.place,
            seen.way,
            seen.measure,
            *(f"{size:.0f}" if math.isfinite(size) else "" for size in (seen.params, seen.low, seen.high)),
            seen.note,
        )
        for seen in found
    ]
    return DataFrame(lines, columns=["where", "way", "measure", "P", "from", "to", ""])
