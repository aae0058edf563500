"""What changes with the version of torch, in words: versions.md, and sections of the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from pandas import DataFrame

from harness.analysis.table import Analysis
from harness.analysis.versions import Apart, Change, Span, Versions, versions
from harness.report.summary import Section
from harness.text import escaped, percent


def sections(analysis: Analysis) -> list[Section]:
    """A section for each kind of change, and a sentence for each change; then a section on what is not compared.

    None for records of one version.
    """
    found = versions(analysis)
    if found is None:
        return []
    changed = [
        Section(
            f"Versions of torch: {kind.lower()}",
            [f"{', '.join(change.networks)}: {', '.join(change.methods)}: {history(change)}." for change in changes],
        )
        for kind, changes in _kinds(found).items()
    ]
    sentences = left_out(found)
    return [*changed, Section("Versions of torch: not compared", sentences)] if sentences else changed


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
    return "\n\n".join([*_results(found), f"{escaped(analysis.environment)}.", *notes(found)]) + "\n"


def _results(found: Versions) -> list[str]:
    if not found.versions:
        return ["# No result can be compared over versions of torch"]
    totals = found.totals.astype(int).rename_axis(None)
    parts = [
        f"# Which results change with torch {', '.join(found.versions)}",
        "Cells that two versions or more have run, by outcome:",
        totals.to_markdown(disable_numparse=True),
    ]
    for kind, changes in _kinds(found).items():
        texts = table(changes, ", ".join).map(escaped)
        parts += [f"## {kind}", texts.to_markdown(index=False, disable_numparse=True)]
    return parts if found.changes else [*parts, "Nothing changes, and nothing is wrong."]


def left_out(found: Versions) -> list[str]:
    """Which versions share no cell with another one, and why; how many cells are of an unknown version."""
    sentences = [_apart(version) for version in found.apart]
    if found.unknown:
        sentences.append(f"Cells whose records name no version of torch: {found.unknown}.")
    return sentences


def _apart(found: Apart) -> str:
    none = f"None of the cells of torch {found.version} ({found.cells}) can be compared"
    if found.differing:
        return f"{none}: those of other versions differ in {', '.join(found.differing)}."
    return f"{none}: none was run both with it and with another version, on the same network."


def notes(found: Versions) -> list[str]:
    """How cells are compared, what is left out, what else than torch may have changed a result; markup is escaped."""
    sentences = [
        "A cell is compared over versions of torch if its test network, its method, every option and every setting are "
        "the same. The time limit and the options of sampling and agreement may differ. A percentage is the relative "
        "error, over all networks and methods of a line from the smallest to the largest. Refused and failed: an error "
        "and no result; refused also counts methods that need a network, on functions. A crash, or the end of time or "
        "memory, may be the machine's, so it is no verdict on a version. Another network: it has other parameters or "
        "operators than with the newest version, and its source is not known to be the same.",
        *left_out(found),
    ]
    if found.alone:
        sentences.append(
            f"{found.alone} cells are left out: no other version has run them on the same network, with all packages."
        )
    if found.others:
        sentences.append(f"Another network with some version, and left out there: {', '.join(found.others)}.")
    if found.unsourced:
        sentences.append(
            f"Records of torch {', '.join(found.unsourced)} do not know the source of their test network; it is taken "
            "to be the same if its parameters and operators are."
        )
    sentences += [f"{version} ran on {'; '.join(machines)}." for version, machines in found.machines.items()]
    changed = {
        "The source of these methods is": found.methods,
        "These methods use packages that are": found.packages,
        "The source of these test networks is, unlike their parameters and operators,": found.networks,
        "These columns of the record are": found.sampling,
    }
    sentences += [
        f"{what} not the same with every version: {', '.join(names)}." for what, names in changed.items() if names
    ]
    return list(map(escaped, sentences))


def _kinds(found: Versions) -> dict[str, list[Change]]:
    kinds: dict[str, list[Change]] = {}
    for change in found.changes:
        kinds.setdefault(change.kind, []).append(change)
    return kinds
