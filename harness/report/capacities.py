"""The largest P that fits into a memory, in sentences and rows; what holds for several methods is written once."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame

from harness.analysis.capacity import ABOVE, CONSTANT, FURTHEST, OUT, RESULT, Capacity
from harness.report.latex.text import whole
from harness.text import rounded


def capacity_sentences(capacities: Sequence[Capacity]) -> list[str]:
    """A sentence for each group of methods of which the same holds: `mlp: a fits into 8 GB up to P = 21,000 (...)`."""
    sentences = []
    for group in _alike(capacities):
        first = group[0]
        predicate = _predicate(first)
        if len(group) == 1:
            sentences.append(f"{first.problem}: {first.method} {predicate}")
        else:
            methods = ", ".join(capacity.method for capacity in group)
            sentences.append(f"{first.problem}: each of {len(group)} methods {predicate}: {methods}")
    return sentences


def capacity_rows(capacities: Sequence[Capacity]) -> DataFrame:
    """A row of texts for each group; from, to: the least and the greatest end of the methods' intervals."""
    return DataFrame(
        [
            {
                "problem": group[0].problem,
                "methods": ", ".join(capacity.method for capacity in group),
                "measure": " or ".join(sorted({capacity.measure for capacity in group})),
                "P": whole(group[0].params),
                "from": whole(min(capacity.low for capacity in group)),
                "to": whole(max(capacity.high for capacity in group)),
                "": group[0].note,
            }
            for group in _alike(capacities)
        ]
    )


def _alike(capacities: Sequence[Capacity]) -> list[list[Capacity]]:
    """The capacities by problem and by what is written of them."""
    groups: dict[tuple[str, str], list[Capacity]] = {}
    for capacity in capacities:
        groups.setdefault((capacity.problem, _predicate(capacity)), []).append(capacity)
    return list(groups.values())


def _predicate(capacity: Capacity) -> str:
    """What is written of a method, without its name."""
    if capacity.note == CONSTANT:
        return f"has a {capacity.measure} that does not grow measurably with P"
    size = rounded(capacity.params)
    within = f"({rounded(capacity.low)} to {rounded(capacity.high)})"
    least = f" ({rounded(capacity.low)} or more)" if rounded(capacity.low) != size else ""
    where = {
        OUT: f"below P = {capacity.params:,.0f}, where it ran out of memory",
        ABOVE: f"below P = {capacity.params:,.0f}, where its {capacity.measure} was measured above that",
        FURTHEST: f"at P = {size}{least}, the furthest that the fit of its memory is followed",
        RESULT: f"up to P = {size}, where the result alone fills it",
        "": f"up to P = {size} {within}, by its {capacity.measure}",
    }
    return f"fits into {capacity.memory_gb:g} GB {where[capacity.note]}"
