"""What changes with the version of torch, in words: versions.md, and sections of the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from pandas import DataFrame

from harness.analysis.table import Analysis
from harness.analysis.versions import Change, Span, Versions, versions
from harness.report.summary import Section
from harness.text import escaped, percent


def sections(analysis: Analysis) -> list[Section]:
    """A section for each kind of change, and a sentence for each change; none for records of one version."""
    found = versions(analysis)
    if found is None:
        return []
    return [
        Section(
            f"Versions of torch: {kind.lower()}",
            [f"{', '.join(change.networks)}: {', '.join(change.methods)}: {history(change)}." for change in changes],
        )
        for kind, changes in _kinds(found).items()
    ]


def table(changes: Sequence[Change], names: Callable[[Collection[str]], str]) -> DataFrame:
    """A line for each change; `names` writes those of its networks, and of its methods."""
    lines = [(names(change.networks), names(change.methods), history(change)) for change in changes]
    return DataFrame(lines, columns=["test networks", "methods", "with torch"])


def history(change: Change) -> str:
    """`right in 2.11.0, 2.13.0; wrong by 120% in 2.14.1`."""
    return "; ".join(f"{_seen(span)} in {', '.join(span.versions)}" for span in change.spans)


def _seen(span: Span) -> str:
    if span.outcome != "wrong" or math.isnan(span.most):
        return span.outcome
    ends = dict.fromkeys(percent(error) for error in (span.least, span.most))
    return f"wrong by {' to '.join(ends)}"


def markdown(analysis: Analysis) -> str | None:
    """How many cells have which outcome with each version, then a table for each kind of change, and what to know.

    None for records of one version.
    """
    found = versions(analysis)
    if found is None:
        return None
    totals = found.totals.astype(int).rename(columns=str).rename_axis(None)
    parts = [
        f"# Which results change with torch {', '.join(found.versions)}",
        "Cells that two versions or more have run, by outcome:",
        totals.to_markdown(disable_numparse=True),
    ]
    for kind, changes in _kinds(found).items():
        texts = table(changes, ", ".join).map(escaped)
        parts += [f"## {kind}", texts.to_markdown(index=False, disable_numparse=True)]
    if not found.changes:
        parts.append("Nothing changes, and nothing is wrong.")
    return "\n\n".join([*parts, f"{escaped(analysis.environment)}.", *notes(found)]) + "\n"


def notes(found: Versions) -> list[str]:
    """How cells are compared, and what else than torch may have changed a result; markup is escaped."""
    sentences = [
        "A cell is compared over versions of torch if its test network, its method, every option and every setting are "
        "the same. A percentage is the relative error, over all networks and methods of a line from the smallest to "
        "the largest. Refused and failed: an error and no result. A crash, or the end of time or memory, may be the "
        "machine's, so it is no verdict on a version. Of another source: the test network was edited since."
    ]
    if found.alone:
        sentences.append(f"{found.alone} cells were run with one version only, and are left out.")
    if found.unsourced:
        sentences.append(
            f"Records of torch {', '.join(found.unsourced)} do not know the source of their test network; it is taken "
            "to be the same."
        )
    if found.edited:
        sentences.append(f"The source of these methods is not the same with every version: {_escaped(found.edited)}.")
    if found.packages:
        sentences.append(
            f"These methods use packages that are not the same with every version: {_escaped(found.packages)}."
        )
    return sentences


def _escaped(names: Collection[str]) -> str:
    return escaped(", ".join(names))


def _kinds(found: Versions) -> dict[str, list[Change]]:
    kinds: dict[str, list[Change]] = {}
    for change in found.changes:
        kinds.setdefault(change.kind, []).append(change)
    return kinds
