"""How far any two results are from each other, from their sketches: between methods, dtypes, devices, versions."""

from __future__ import annotations

import math

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from pandas import DataFrame

from harness.report.figures import RC
from harness.report.marks import safe
from harness.report.rows import differing, environment, prepared, setting

# Rows whose results should agree.
SAME = [
    "problem",
    "problem_options",
    "quantity",
    "vectors",
    "subset",
    "seed",
    "params",
]
PANELS = 9  # problems that are drawn


def distances(rows: DataFrame) -> DataFrame:
    """Relative distance of every two of these prepared rows' results, estimated from their sketches; rows by `way`.

    sqrt(sum (s_a - s_b)^2 / max(sum s_a^2, sum s_b^2)) over the 32 sketches s; NaN where a row has none.
    """
    sketches = numpy.array([entry if isinstance(entry, list) else [math.nan] * 32 for entry in rows["sketch"]])
    squares = numpy.square(sketches).mean(1)
    scale = numpy.maximum(squares[:, None], squares[None, :])
    apart = numpy.square(sketches[:, None] - sketches[None, :]).mean(2)
    ratio = numpy.sqrt(numpy.divide(apart, scale, out=numpy.zeros_like(apart), where=scale != 0))
    return DataFrame(ratio, index=rows["way"], columns=rows["way"])


def disagreement(frame: DataFrame) -> Figure:
    """Heat map of the distances between results, a panel a problem (the first nine): powers of ten, dark is far."""
    rows = prepared(frame)
    rows = rows[rows["sketch"].map(lambda entry: isinstance(entry, list))]
    extra = differing(rows)
    rows["way"] = [" ".join([row["label"], *(setting(name, row[name]) for name in extra)])
                   for row in rows.to_dict("records")]  # fmt: skip
    panels = [(values, group.drop_duplicates("way").sort_values("way"))
              for values, group in rows.groupby(SAME, dropna=False)]  # fmt: skip
    panels = [(values, group) for values, group in panels if len(group) > 1][:PANELS]
    columns = min(len(panels), 3) or 1
    lines = math.ceil(len(panels) / columns) or 1
    most = max((len(group) for _, group in panels), default=2)
    side = 0.22 * most + 1.9
    with matplotlib.rc_context(RC):
        figure = Figure((columns * side + 0.8, lines * side + 0.4), layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for ax, (values, group) in zip(axes, panels, strict=False):
            drawn = _panel(ax, distances(group))
            ax.set_title(safe(f"{values[0]}, {values[2]}, P={values[-1]:g}", 44), fontsize=8)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        if panels:
            figure.colorbar(drawn, ax=axes, label="log10 of the relative distance", shrink=0.6)
        note = safe(f"Estimated from 32 sketches. {environment(rows)}.", int(columns * side * 17))
        figure.supxlabel(note, fontsize=6, x=0.01, ha="left", color="0.3")
    return figure


def _panel(ax: Axes, table: DataFrame) -> ScalarMappable:
    values = numpy.log10(numpy.clip(table.to_numpy(), 1e-17, None))
    drawn = ax.pcolormesh(values, cmap="cividis_r", vmin=-17, vmax=0, edgecolors="white", linewidth=0.4)
    ticks = [place + 0.5 for place in range(len(table))]
    names = [safe(str(way), 40) for way in table.index]
    ax.set_xticks(ticks, names, rotation=90, fontsize=5.5)
    ax.set_yticks(ticks, names, fontsize=5.5)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    return drawn
