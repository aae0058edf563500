"""Strong and weak scaling: how time and memory of a method change with the processes that compute one result.

- Strong: the problem stays. With times t(1) and t(K) of one and of K processes, the efficiency is t(1) / (K t(K)).
- Weak, of a matrix: one numeric option of the problem changes, its size, such that each process has as many entries,
  P^2 / K. The efficiency is t(1) / t(K).
"""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame, Series

from harness.analysis.table import Analysis, setting
from harness.record import plain
from harness.record.checks import options
from harness.record.identity import PROBLEM

ALIKE = 0.05  # relative difference of P^2 / K up to which weak scaling compares two cells
MATRICES = ("hessian", "ggn")  # quantities with P^2 entries
SHOWN = ("params", "ranks", "median_s")
COLUMNS = ("kind", "problem", "label", *SHOWN, "efficiency", "apart", "contended", "peak_bytes", "peak_share")


def efficiency(analysis: Analysis) -> DataFrame:
    """A row for each right cell of several processes that has one of a single process to compare with; maybe none.

    Columns: `kind` (strong or weak), problem (with quantity and settings), label, params, ranks (K), median_s,
    efficiency, apart (whether the two cells ran on different nodes of a cluster), contended (whether either was), and,
    of strong scaling, peak_bytes of the largest rank and its share of that of one process.
    """
    cells = analysis.cells[analysis.cells["median_s"] > 0]
    cells = cells[(cells["status"] == "ok") & cells["params"].notna()]
    settings = [name for name in analysis.settings if name != "ranks"]
    keys = ["family", "quantity", *settings, "label"]
    several = set(cells["label"][cells["ranks"] > 1])  # most methods have no cells of several processes
    found = []
    for values, group in cells[cells["label"].isin(several)].groupby(keys, dropna=False):
        family, quantity, *others, label = values
        names = [plain(family), plain(quantity), *map(setting, settings, others)]
        of_group = {"problem": ", ".join(names), "label": label}
        found += [of_group | row for row in (*_strong(group), *_weak(group))]
    rows = DataFrame(found, columns=list(COLUMNS))
    return rows.sort_values(["kind", "problem", "label", "params", "ranks"], ignore_index=True)


def _strong(group: DataFrame) -> Iterator[dict[str, object]]:
    for _, same in group.groupby([*PROBLEM[1:], "params"], dropna=False):
        alone = same[same["ranks"] == 1]
        for _, cell in same[same["ranks"] > 1].iterrows() if len(alone) else ():
            one = alone.iloc[0]
            yield _row("strong", cell, one) | {
                "efficiency": one["median_s"] / (cell["ranks"] * cell["median_s"]),
                "peak_bytes": cell["tensor_peak_bytes"],
                "peak_share": cell["tensor_peak_bytes"] / one["tensor_peak_bytes"],
            }


def _weak(group: DataFrame) -> Iterator[dict[str, object]]:
    matrices = group[group["quantity"].str.split().str[0].isin(MATRICES)]
    alone = matrices[matrices["ranks"] == 1]
    for _, cell in matrices[matrices["ranks"] > 1].iterrows():
        sizes = [one for _, one in alone.iterrows() if _differ_in_size(one, cell)]
        off = [abs(one["params"] ** 2 / (cell["params"] ** 2 / cell["ranks"]) - 1) for one in sizes]
        if off and min(off) <= ALIKE:
            one = sizes[off.index(min(off))]
            yield _row("weak", cell, one) | {"efficiency": one["median_s"] / cell["median_s"]}


def _differ_in_size(one: Series, other: Series) -> bool:
    """Whether the problems of two cells differ in a single option, and that is a number in both."""
    first, second = options(one["problem_options"]), options(other["problem_options"])
    differing = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    values = [given.get(name) for name in differing for given in (first, second)]
    return len(differing) == 1 and all(isinstance(value, int | float) for value in values)


def _row(kind: str, cell: Series, one: Series) -> dict[str, object]:
    nodes = {node for node in (cell["node"], one["node"]) if isinstance(node, str)}
    marks = {"apart": len(nodes) > 1, "contended": bool(one["contended"] or cell["contended"])}
    return {"kind": kind, **marks, **{name: cell[name] for name in SHOWN}}
