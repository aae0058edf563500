"""Speed-ups over the baseline, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame

from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.figures.canvas import canvas, caption, drawing, outer_labels, plain_numbers
from harness.report.figures.curves import NAMED, letters_of
from harness.report.figures.labels import Label, attach, folded, settle
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import BAR, Style, styles
from harness.report.speedups import meaning

ONE: dict[str, Any] = {"color": "0.35", "linewidth": 0.8}


def speedup_against_size(
    found: DataFrame,
    analysis: Analysis,
    baseline: str,
    medium: Medium = SCREEN,
    looks: Mapping[str, Style] | None = None,
) -> Figure:
    """Speed-ups over a method against P, with their intervals; a panel for each problem, quantity and setting."""
    looks = looks or styles(analysis, baseline)
    panels = list(found.groupby("problem", sort=False))
    labels = [_labels(group, looks, medium) for _, group in panels]
    with drawing(medium):
        figure, axes, at = canvas(medium, [str(place) for place, _ in panels], labels=labels)
        for ax, (_, group) in zip(axes, panels, strict=False):
            for label, rows in group.groupby("label"):
                look = looks[str(label)]
                ax.plot(rows["params"], rows["speedup"], **medium.scaled(look.line | look.mark))
                ax.vlines(rows["params"], rows["low"], rows["high"], color=look.colour, **medium.scaled(BAR))
            ax.axhline(1, **medium.scaled(ONE))
            ax.set(xscale="log", yscale="log", ylim=(found["speedup"].min() / 2, 2 * found["speedup"].max()))
            ax.grid(which="major", linewidth=0.5, color="0.9")
            plain_numbers(ax, at.crowded)
        attached = [attach(ax, own, medium) for ax, own in zip(axes, labels, strict=False)]
        outer_labels(axes, at.columns, "parameters P", ["times as fast"] * len(panels))
        note = f"Baseline: {plain(baseline)}. {meaning(found)}. {analysis.environment}."
        caption(figure, note, medium)
        settle(figure, axes, attached)
    return figure


def _labels(group: DataFrame, looks: Mapping[str, Style], medium: Medium) -> list[Label]:
    """The name of each method at its largest P; those in grey only where they are few."""
    named = group["label"].nunique() <= NAMED
    found = []
    for label, own in group.groupby("label"):
        look = looks[str(label)]
        if look.emphasised or named:
            colour, size = look.text
            x, y = own.sort_values("params")[["params", "speedup"]].iloc[-1]
            found.append(Label(folded(str(label), letters_of(medium)), x, y, colour, size * medium.scale))
    return found
