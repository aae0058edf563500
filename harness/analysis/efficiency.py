"""Strong and weak scaling: how time and memory of a method change with the processes that compute one result.

- Strong: the problem stays. With times t(1) and t(K) of one and of K processes, the efficiency is t(1) / (K t(K)).
- Weak: P grows with K such that each process has as many entries of the matrix, P^2 / K. The efficiency is t(1) / t(K).
"""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame, Series

from harness.analysis.table import Analysis, setting
from harness.record import plain
from harness.record.identity import PROBLEM

ALIKE = 0.05  # relative difference of P^2 / K up to which weak scaling compares two cells
COLUMNS = ("kind", "problem", "label", "params", "ranks", "median_s", "efficiency", "apart", "peak_bytes", "peak_share")


def efficiency(analysis: Analysis) -> DataFrame:
    """A row for each right cell of several processes that has one of a single process to compare with; maybe none.

    Columns: `kind` (strong or weak), problem (with quantity and settings), label, params, ranks (K), median_s,
    efficiency, apart (whether the two cells ran on different nodes of a cluster), and, of strong scaling, peak_bytes of
    the largest rank and its share of that of one process.
    """
    cells = analysis.cells[analysis.cells["median_s"] > 0]
    cells = cells[(cells["status"] == "ok") & cells["params"].notna()]
    settings = [name for name in analysis.settings if name != "ranks"]
    keys = ["family", "quantity", *settings, "label"]
    found = []
    for values, group in cells.groupby(keys, dropna=False):
        family, quantity, *others, label = values
        told = [plain(family), plain(quantity), *map(setting, settings, others)]
        of_group = {"problem": ", ".join(told), "label": label}
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
    alone = group[group["ranks"] == 1]
    for _, cell in group[group["ranks"] > 1].iterrows():
        entries = cell["params"] ** 2 / cell["ranks"]
        off = (alone["params"] ** 2 / entries - 1).abs()
        if (off <= ALIKE).any():
            one = alone.loc[off.idxmin()]
            yield _row("weak", cell, one) | {"efficiency": one["median_s"] / cell["median_s"]}


def _row(kind: str, cell: Series, one: Series) -> dict[str, object]:
    nodes = {node for node in (cell["node"], one["node"]) if isinstance(node, str)}
    return {"kind": kind, "apart": len(nodes) > 1, **{name: cell[name] for name in ("params", "ranks", "median_s")}}
