"""Which methods a figure draws in colour: the baseline, those that were asked for, and the fastest right ones."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.profiles import times_over_best
from harness.analysis.table import Analysis

MOST = 8  # methods in colour
BASELINE = "func_hessian"  # torch.func.hessian: the baseline where none is named


def baseline_of(analysis: Analysis, named: str | None = None) -> str | None:
    """The label of the baseline: the one that is named, else torch.func.hessian; None where no record has that.

    Raises ValueError for a named one that no record has.
    """
    labels = sorted(set(analysis.rows["label"]))
    if named is not None and named not in labels:
        raise ValueError(f"baseline {named} is no method of these records; they have {', '.join(labels)}")
    return named or (BASELINE if BASELINE in labels else None)


def emphasised(analysis: Analysis, baseline: str | None = None, highlight: Sequence[str] = ()) -> list[str]:
    """At most MOST labels: the highlighted ones, the baseline, then the fastest right ones; all where they fit.

    Raises ValueError for more than MOST highlighted methods and for one that no record has.
    """
    labels = sorted(set(analysis.rows["label"]))
    missing = next((name for name in highlight if name not in labels), None)
    if missing is not None:
        raise ValueError(f"highlight {missing} is no method of these records; they have {', '.join(labels)}")
    first = list(dict.fromkeys(highlight))
    if len(first) > MOST:
        raise ValueError(f"{len(first)} methods are highlighted; a figure has colours for {MOST}")
    base = baseline_of(analysis, baseline)
    chosen = [*first, *([base] if base else []), *_fastest(analysis, labels)]
    return list(dict.fromkeys(chosen))[:MOST]


def _fastest(analysis: Analysis, labels: list[str]) -> list[str]:
    """The labels by their speed relative to the best right method, summed over the cells; failed and wrong: 0.

    Of more than MOST, those that are not ranked are left out.
    """
    if len(labels) > MOST:
        ranked = set(analysis.ranked["label"])
        labels = [label for label in labels if label in ranked]
    speed = (1 / times_over_best(analysis)).sum() if analysis.rows["median_s"].notna().any() else {}
    return sorted(labels, key=lambda label: (-float(speed.get(label, 0.0)), label))
