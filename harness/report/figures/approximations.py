"""Error against time of approximations, with the time of the exact matrix: which of them is worth its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from harness.analysis.approximations import Compared
from harness.analysis.fronts import front
from harness.analysis.table import Analysis
from harness.report.figures.canvas import canvas, caption, drawing, outer_labels, plain_numbers
from harness.report.figures.curves import MOST, letters_of
from harness.report.figures.fronts import FRONT
from harness.report.figures.labels import Label, attach, folded, settle
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import COLOURS, MARKERS, TOLERANCE, Style

TITLES = {"relative_error": "relative error", "newton_error": "error of the Newton step"}
NOTE = """Dashed line: time of the fastest exact method; what is right of it is not worth its cost. Grey steps: what \
no other approximation beats in both."""


def approximations(
    found: Sequence[Compared], analysis: Analysis, column: str = "relative_error", medium: Medium = SCREEN
) -> Figure:
    """A panel for each matrix (the first MOST): an error of its approximations, one of TITLES, against their time."""
    drawn = found[:MOST]
    looks = _looks(found)
    points = [_points(matrix, column) for matrix in drawn]
    with drawing(medium):
        labels = [_labels(own, looks, medium) for own in points]
        figure, axes, at = canvas(medium, [matrix.title for matrix in drawn], labels=labels)
        for ax, matrix, own in zip(axes, drawn, points, strict=False):
            _draw(ax, matrix, own, looks, medium)
        axes[0].set(**_limits(drawn, points))
        for ax in axes[: len(drawn)]:
            plain_numbers(ax, at.crowded)
        attached = [attach(ax, own, medium) for ax, own in zip(axes, labels, strict=False)]
        outer_labels(axes, at.columns, "time of a call (ms)", [TITLES[column]] * len(drawn))
        left_out = f" The first {MOST} of {len(found)}." if len(found) > MOST else ""
        caption(figure, f"{NOTE}{left_out} {analysis.environment}.", medium)
        settle(figure, axes, attached)
    return figure


def _looks(found: Sequence[Compared]) -> Mapping[str, Style]:
    """A colour and a marker for each approximation, the same in all panels."""
    labels = sorted({label for matrix in found for label in matrix.approximations["label"]})
    return {
        label: Style(COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)], (), True)
        for place, label in enumerate(labels)
    }


def _points(matrix: Compared, column: str) -> DataFrame:
    """The approximations with x in ms and y; those without a time or without that error are left out."""
    rows = matrix.approximations
    rows = rows.assign(x=1e3 * rows["median_s"], y=rows[column])
    return rows[(rows["x"] > 0) & (rows["y"] > 0)]


def _labels(points: DataFrame, looks: Mapping[str, Style], medium: Medium) -> list[Label]:
    found = []
    for row in points.to_dict("records"):
        colour, size = looks[str(row["label"])].text
        text = folded(str(row["label"]), letters_of(medium))
        found.append(Label(text, row["x"], row["y"], colour, size * medium.scale))
    return found


def _draw(ax: Axes, matrix: Compared, points: DataFrame, looks: Mapping[str, Style], medium: Medium) -> None:
    ax.set(xscale="log", yscale="log")
    ax.grid(which="major", linewidth=0.5, color="0.9")
    if len(points) > 1:
        best = front(points)
        ax.step(best["x"], best["y"], where="post", **medium.scaled(FRONT))
    for row in points.to_dict("records"):
        look = looks[str(row["label"])]
        ax.plot(row["x"], row["y"], color=look.colour, linestyle="", **medium.scaled(look.mark))
    if matrix.exact is not None:
        ax.axvline(1e3 * matrix.exact_s, **medium.scaled(TOLERANCE))


def _limits(drawn: Sequence[Compared], points: Sequence[DataFrame]) -> dict[str, tuple[float, float]]:
    """Of axes that show all points and the lines of the exact methods, with a margin."""
    times = [time for own in points for time in own["x"]] + [1e3 * matrix.exact_s for matrix in drawn if matrix.exact]
    errors = [error for own in points for error in own["y"]]
    return {
        name: (min(values) / 1.5, 1.5 * max(values)) for name, values in (("xlim", times), ("ylim", errors)) if values
    }
