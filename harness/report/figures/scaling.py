"""Scaling: the time and the memory of one family of problems against P, side by side or stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from harness.analysis.curves import Panel
from harness.analysis.ranking import FEW_SIZES
from harness.analysis.table import Analysis
from harness.report.figures.curves import MEMORY, MEMORY_NOTE, TIME_NOTE, figure, time_of, views
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import Style

MOST = 6  # figures, each of one panel's time and memory
FEW, MANY = 1, 100  # figures where there are more than MANY panels: most are left out in either case


def most(panels: int) -> int:
    """How many of so many `scalable` panels have a figure."""
    return min(panels, MOST if panels <= MANY else FEW)


def scalable(panels: Sequence[Panel]) -> list[Panel]:
    """The panels that a scaling figure is drawn of: FEW_SIZES sizes or more of which time and memory are known."""
    found = []
    for panel in panels:
        known = panel.cells[["tensor_peak_bytes", "median_s"]].notna().all(axis=1)
        if panel.cells["params"][known].nunique() >= FEW_SIZES:
            found.append(panel)
    return found


def scaling(
    analysis: Analysis, panel: Panel, medium: Medium = SCREEN, looks: Mapping[str, Style] | None = None, of: int = 1
) -> Figure:
    """Median time and peak of tensor memory of the methods of one panel, `of` so many, against P."""
    drawn = views([panel], [time_of(panel.cells), MEMORY])
    missing = of - most(of)
    lost = [f"Panels without such a figure: {missing} (values: table.csv)."] if missing else []
    note = " ".join([f"{panel.title}. {TIME_NOTE} {MEMORY_NOTE}", *lost])
    return figure(analysis, drawn, note, medium, looks, shared=False)
