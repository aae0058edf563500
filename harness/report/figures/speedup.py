"""Speed-ups over the baseline, drawn."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.figures.canvas import canvas, caption, drawing, outer_labels, plain_numbers
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import BAR, LINE, MARKER, safe, styles
from harness.report.speedups import MEANING, intervals

ONE: dict[str, Any] = {"color": "0.35", "linewidth": 0.8}


def speedup_against_size(found: DataFrame, analysis: Analysis, baseline: str, medium: Medium = SCREEN) -> Figure:
    """Speed-ups over a method against P, with their intervals; a panel for each problem, quantity and setting."""
    looks = styles(analysis.rows)
    panels = list(found.groupby("problem", sort=False))
    legend = [
        Line2D(
            [],
            [],
            color=looks[label].colour,
            marker=looks[label].marker,
            label=safe(label, 34),
            linestyle=(0, looks[label].dashes) if looks[label].dashes else "-",
            **medium.scaled(LINE | MARKER),
        )
        for label in sorted(set(found["label"]))
    ]
    with drawing(medium):
        figure, axes, at = canvas(medium, [str(place) for place, _ in panels], legend)
        for ax, (_, group) in zip(axes, panels, strict=False):
            for label, rows in group.groupby("label"):
                look = looks[str(label)]
                joined = (0, look.dashes) if look.dashes else "-"
                ax.plot(
                    rows["params"],
                    rows["speedup"],
                    color=look.colour,
                    marker=look.marker,
                    linestyle=joined,
                    **medium.scaled(LINE | MARKER),
                )
                ax.vlines(rows["params"], rows["low"], rows["high"], color=look.colour, **medium.scaled(BAR))
            ax.axhline(1, **medium.scaled(ONE))
            ax.set(xscale="log", yscale="log", ylim=(found["speedup"].min() / 2, 2 * found["speedup"].max()))
            ax.grid(which="major", linewidth=0.5, color="0.9")
            plain_numbers(ax, at.crowded)
        outer_labels(axes, len(panels), at.columns, "parameters P", "times as fast")
        note = f"Baseline: {plain(baseline)}. {MEANING} ({intervals(found)}). {analysis.environment}."
        caption(figure, note, medium)
    return figure
