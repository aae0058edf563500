"""How far any two results are from each other, from their sketches: between methods, dtypes, devices, versions."""

from __future__ import annotations

import math

import numpy
from pandas import DataFrame

from harness.analysis.table import Analysis, differing, setting
from harness.record import plain
from harness.record.identity import PROBLEM

# Rows whose results should agree.
SAME = [*PROBLEM, "quantity", "vectors", "subset", "seed", "params"]


def comparable(analysis: Analysis) -> list[tuple[str, DataFrame]]:
    """The groups of two or more results that should agree: a title, and a row for each result, named by `result`."""
    rows = analysis.rows
    rows = rows[rows["sketch"].map(lambda entry: isinstance(entry, list))]
    extra = differing(rows)
    names = [" ".join([row["label"], *(setting(name, row[name]) for name in extra)]) for row in rows.to_dict("records")]
    rows = rows.assign(result=names)
    seeds = rows.groupby("quantity")["seed"].nunique().gt(1).any()
    found = []
    for _, group in rows.groupby(SAME, dropna=False):
        group = group.drop_duplicates("result").sort_values("result")
        first = group.iloc[0]
        parts = [plain(first["problem"]), plain(first["quantity"]), f"P={first['params']:.0f}"]
        parts += [setting("seed", first["seed"])] if seeds else []
        if len(group) > 1:
            found.append((", ".join(parts), group))
    return sorted(found, key=lambda panel: tuple(panel[1][["problem", "quantity", "params"]].iloc[0]))


def distances(rows: DataFrame) -> DataFrame:
    """Relative distance of every two of these rows' results, estimated from their sketches; named by `result`.

    sqrt(sum (s_a - s_b)^2 / max(sum s_a^2, sum s_b^2)) over the 32 sketches s; NaN where a row has none.
    """
    sketches = numpy.array([entry if isinstance(entry, list) else [math.nan] * 32 for entry in rows["sketch"]])
    squares = numpy.square(sketches).mean(1)
    scale = numpy.maximum(squares[:, None], squares[None, :])
    apart = numpy.square(sketches[:, None] - sketches[None, :]).mean(2)
    ratio = numpy.sqrt(numpy.divide(apart, scale, out=numpy.zeros_like(apart), where=scale != 0))
    return DataFrame(ratio, index=rows["result"], columns=rows["result"])
