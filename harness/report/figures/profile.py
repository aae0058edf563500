"""Ways compared over many cells: performance profiles."""

from __future__ import annotations

from typing import Any

import numpy
import pandas
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from harness.analysis.table import CELL, environment, prepared
from harness.record.identity import METHOD, SAMPLED
from harness.report.figures.canvas import canvas, caption, drawing, empty, plain_numbers
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import LINE, safe, styles

FEWEST = 5  # cells of a profile


def ratios(frame: DataFrame) -> DataFrame:
    """Each way's median time over that of the best right one: a row a cell, a column a way.

    What failed or is wrong is infinite; what was not run, or not timed, is NaN. Cells where nothing is right are left
    out.
    """
    rows = prepared(frame)
    where = [column for column in CELL if column not in (*METHOD, *SAMPLED, "packages")]
    cells = rows.groupby([*where, "label"], dropna=False)
    right = cells["status"].agg(lambda seen: bool(seen.eq("ok").all()))
    times = cells["median_s"].median()
    wide = times.where(times > 0).where(right, numpy.inf).unstack("label")
    best = wide.min(axis=1)
    known = numpy.isfinite(best)
    return wide[known].div(best[known], axis=0)


def shared(found: DataFrame) -> DataFrame:
    """The cells that every way was run on, where these are FEWEST or more; else all."""
    whole = found.dropna()
    return whole if len(whole) >= FEWEST else found


def performance_profile(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """The share of cells in which a way takes at most tau times as long as the fastest that is right.

    Dolan and More, "Benchmarking optimization software with performance profiles", Math. Program. 91 (2002). They have
    every way run on every cell: the cells are those where that is so, and where these are few each way's share is of
    the cells that it was run on, which the legend counts.
    """
    every = ratios(frame)
    found = shared(every).dropna(axis=1, how="all")
    looks = styles(prepared(frame))
    shares = {str(way): found[way].dropna().to_numpy() for way in found}
    order = sorted(shares, key=lambda way: (-(shares[way] <= 1).mean(), -numpy.isfinite(shares[way]).mean()))
    whole = bool(found.notna().all(axis=None))
    legend = []
    for way in order:
        ran = "" if whole else f" of {len(shares[way])}"
        told = f"{safe(way, 34)} ({100 * (shares[way] <= 1).mean():.0f} %{ran})"
        look: dict[str, Any] = {"color": looks[way].colour, "dashes": looks[way].dashes or (None, None)}
        legend.append(Line2D([], [], label=told, **look, **medium.scaled(LINE)))
    with drawing(medium):
        figure, (ax,), _ = canvas(medium, [""], legend)
        finite = found.to_numpy()[numpy.isfinite(found.to_numpy())]
        end = 1.2 * max(finite, default=1.0)
        for way, handle in zip(order, legend, strict=True):
            steps = numpy.sort(shares[way][numpy.isfinite(shares[way])])
            heights = [0.0, *numpy.arange(1, len(steps) + 1) / len(shares[way])]
            ax.step(
                [1, *steps, end],
                [*heights, heights[-1]],
                where="post",
                color=handle.get_color(),
                dashes=looks[way].dashes or (None, None),
                **medium.scaled(LINE),
            )
        ax.set(
            xscale="log",
            xlim=(1, end),
            ylim=(0, 1.02),
            xlabel="times as long as the fastest, at most",
            ylabel="share of cells",
        )
        ax.grid(linewidth=0.5, color="0.9")
        plain_numbers(ax, 1.0, (ax.xaxis,))
        if not len(finite):
            empty(ax)
        ran = (
            f"{len(found)} of {len(every)} cells: those that all were run on"
            if len(found) < len(every)
            else (f"{len(found)} cells" + ("" if whole else ", not all run on each: of how many, the legend tells"))
        )
        note = f"{ran}; what failed or is wrong never gets there. In brackets: the share in which it is fastest."
        caption(figure, f"{note} {environment(prepared(frame))}.", medium)
    return figure


def enough(frame: DataFrame) -> bool:
    """Whether there are cells and ways enough for a profile."""
    found = ratios(frame) if frame["median_s"].notna().any() else pandas.DataFrame()
    return len(found) >= FEWEST and found.shape[1] > 1
