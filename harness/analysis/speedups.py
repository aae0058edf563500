"""How many times as fast as one method, the baseline, all others are."""

from __future__ import annotations

from pandas import DataFrame

from harness.analysis.ratios import ratio, times_by
from harness.analysis.table import Analysis, setting
from harness.record import plain
from harness.record.identity import PROBLEM


def speedups(analysis: Analysis, baseline: str) -> DataFrame:
    """How many times as fast as `baseline` each other method is in every cell in which both are right.

    Columns: `problem` (with quantity and settings), params, label, speedup, low, high (NaN where there is no
    interval), processes, and `by`: how the interval was found (`harness.analysis.ratios`). Times of different nodes of
    a cluster make no row, nor does what is not ranked. Raises ValueError for a baseline that no record has, that is not
    ranked, or without a row.
    """
    rows = analysis.ranked
    labels = sorted(set(rows["label"]))
    if baseline in set(analysis.rows["label"]) - set(labels):
        raise ValueError(
            f"baseline {baseline} estimates, so that its times compare with none; take an exact method: "
            f"{', '.join(labels)}"
        )
    if baseline not in labels:
        raise ValueError(f"baseline {baseline} is no method of these records; they have {', '.join(labels)}")
    keys = ["family", "quantity", *analysis.settings]
    cell = [*keys, *PROBLEM[1:], "params"]
    right = rows.groupby([*cell, "label"], dropna=False)["status"].transform(lambda seen: seen.eq("ok").all())
    found = []
    for _, group in rows[right & (rows["median_s"] > 0)].groupby(cell, dropna=False):
        times = times_by(group, ["label"])
        if baseline not in times:
            continue
        first, base_times = group.iloc[0], times.pop(baseline)
        settings = [setting(key, first[key]) for key in analysis.settings]
        problem = ", ".join([plain(first["family"]), plain(first["quantity"]), *settings])
        for label, own in times.items():
            seen = ratio(own, base_times)
            if seen.processes == 0:
                continue
            found.append(
                {
                    "problem": problem,
                    "params": first["params"],
                    "label": label,
                    "speedup": seen.value,
                    "low": seen.low,
                    "high": seen.high,
                    "processes": seen.processes,
                    "by": seen.by,
                }
            )
    if not found:
        raise ValueError(
            f"baseline {baseline} is right and timed in no cell, and on no node, where another method is; take another"
        )
    return DataFrame(found).sort_values(["problem", "params", "label"], ignore_index=True)
