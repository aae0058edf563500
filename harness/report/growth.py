"""growth.md and growth.tex: exponents of P, from which P one method is faster than another, what fits into a memory."""

from __future__ import annotations

from dataclasses import dataclass

from pandas import DataFrame

from harness.analysis.capacity import Capacity, capacities
from harness.analysis.claims import RATE
from harness.analysis.crossovers import Crossover, crossovers
from harness.analysis.fits import BEYOND, FEWEST, Fit, fits
from harness.analysis.ratios import ALONE
from harness.analysis.table import Analysis
from harness.report.capacities import capacity_rows, capacity_sentences
from harness.report.latex.document import family_label
from harness.report.latex.listing import listing
from harness.report.latex.table import Table
from harness.report.latex.text import tex
from harness.text import escaped, rounded

EXPONENTS = (
    f"The measure grows as P to the power of the exponent, by least squares on logarithms from {FEWEST} sizes on"
)
CROSSED = (
    f"At most {100 * RATE:g} % of the crossovers listed are expected to be wrong by chance (false discovery rate over "
    "all pairs of methods). The 95 % interval of the ratio of the two times leaves out 1 below and above a crossover, "
    "and P is interpolated between these two sizes. A crossover by one process a cell holds no error rate: there the "
    f"interval is of samples, and the ratio is beyond {ALONE:g}"
)
FITTING = (
    "By the fit of the tensor peak or, on the CPU, of the process peak, above the start of the call: of the two, the "
    f"one that reaches the memory first. A fit is followed up to {BEYOND:g} times the largest P measured. The interval "
    "is of 95 %"
)


@dataclass(frozen=True)
class Growth:
    """All that the records show of how cost depends on P."""

    fits: list[Fit]
    crossovers: list[Crossover]
    capacities: list[Capacity]
    label: str  # the end of the labels of its tables: the family of problems, where there is one
    environment: str

    def __bool__(self) -> bool:
        return bool(self.fits or self.crossovers or self.capacities)

    def markdown(self) -> str:
        """A table of the exponents, and lists of crossovers and of what fits."""
        parts = []
        if self.fits:
            table = _exponents(self.fits).map(escaped).to_markdown(index=False, disable_numparse=True)
            parts.append(f"# Growth with P\n\n{EXPONENTS}; from, to: its 95 % interval.\n\n{table}")
        if self.crossovers:
            sentences = _list([crossover_sentence(crossover) for crossover in self.crossovers])
            parts.append(f"# Which method is faster from which P on\n\n{CROSSED}.\n\n{sentences}")
        if self.capacities:
            sentences = _list(capacity_sentences(self.capacities))
            parts.append(f"# What fits\n\n{FITTING}.\n\n{sentences}")
        return "\n\n".join([*parts, f"{escaped(self.environment)}.\n"])

    def tables(self) -> list[Table]:
        """The same as a table each."""
        environment = f"{tex(self.environment)}."
        found = []
        if self.fits:
            notes = f"{tex(EXPONENTS)}; from, to: its 95\\,\\% interval. {environment}"
            found.append(listing(_exponents(self.fits), "Growth with $P$", notes, f"tab:growth{self.label}"))
        if self.crossovers:
            title = "From which $P$ on one method is faster than another"
            notes = f"{tex(CROSSED)}: from, to. {environment}"
            found.append(listing(_crossed(self.crossovers), title, notes, f"tab:crossovers{self.label}"))
        if self.capacities:
            title = f"The largest $P$ that fits into {self.capacities[0].memory_gb:g}\\,GB"
            notes = f"{tex(FITTING)}: from, to. {environment}"
            found.append(listing(capacity_rows(self.capacities), title, notes, f"tab:fits{self.label}"))
        return found


def growth(analysis: Analysis, memory_gb: float | None = None) -> Growth:
    """What the records show of it; what fits only into a memory that is given."""
    return Growth(
        fits=fits(analysis),
        crossovers=crossovers(analysis),
        capacities=[] if memory_gb is None else capacities(analysis, memory_gb),
        label=family_label(analysis),
        environment=analysis.environment,
    )


def crossover_sentence(crossover: Crossover) -> str:
    """`mlp: a is faster than b from P = 1,300 on (between 800 and 1,600)`."""
    alone = "; one process a cell" if crossover.processes == 1 else ""
    between = f"between {crossover.low:,.0f} and {crossover.high:,.0f}{alone}"
    order = f"{crossover.faster} is faster than {crossover.slower} from P = {rounded(crossover.params)} on"
    return f"{crossover.problem}: {order} ({between})"


def _list(sentences: list[str]) -> str:
    return "\n".join(f"- {escaped(sentence)}" for sentence in sentences)


def _exponents(found: list[Fit]) -> DataFrame:
    return DataFrame(
        [
            {
                "problem": fit.problem,
                "method": fit.method,
                "measure": fit.measure,
                "sizes": str(fit.sizes),
                "exponent": f"{fit.exponent:z.2f}",
                "from": f"{fit.low:z.2f}",
                "to": f"{fit.high:z.2f}",
            }
            for fit in found
        ]
    )


def _crossed(found: list[Crossover]) -> DataFrame:
    return DataFrame(
        [
            {
                "problem": crossover.problem,
                "faster": crossover.faster,
                "than": crossover.slower,
                "P": f"{crossover.params:.0f}",
                "from": f"{crossover.low:.0f}",
                "to": f"{crossover.high:.0f}",
                "rounds": str(crossover.processes),
            }
            for crossover in found
        ]
    )
