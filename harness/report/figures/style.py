"""How a figure's rows look: a method's colour, marker and dash, the marks of failures, the legend, safe text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from pandas import DataFrame

from harness.analysis.fits import Fit
from harness.analysis.intervals import interval
from harness.record import plain
from harness.report.figures.page_size import Medium

# seaborn's "colorblind" palette less pink and yellow, which do not show in print; the counts are coprime, so that
# 8 x 7 x 5 methods differ. Cross markers are kept for rows that are measured but not ok.
COLOURS = [seaborn.color_palette("colorblind")[index] for index in (0, 1, 2, 3, 4, 7, 9, 5)]
MARKERS = ("o", "s", "^", "D", "v", "P", "*")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1), (5, 1, 1, 1), (2, 1))
SUSPECT: dict[str, Any] = {
    "marker": "X",
    "markersize": 10,
    "markeredgewidth": 0.8,
    "markerfacecolor": "none",
    "markeredgecolor": "#a00000",
    "linestyle": "",
}
CONTENDED: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markeredgewidth": 0.8,
    "markerfacecolor": "none",
    "markeredgecolor": "0.5",
    "linestyle": "",
}
MARKER: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.4}
LINE: dict[str, Any] = {"linewidth": 1.1}
BAR: dict[str, Any] = {"linewidth": 0.8}  # of an interval
TOLERANCE: dict[str, Any] = {"color": "0.35", "linewidth": 1.0, "linestyle": (0, (6, 2))}
FLOOR: dict[str, Any] = {"color": "0.35", "linewidth": 0.8, "linestyle": (0, (1, 2))}
# What stands for a value that is not there.
LETTERS = {
    "timeout": "T",
    "oom": "M",
    "unsupported": "U",
    "crashed": "C",
    "error": "E",
    "nonfinite": "N",
    "wrong": "W",
    "ok": "?",
}
WORDS = {"oom": "out of memory", "ok": "not measured"}
BEFORE_EXPONENT = 32  # characters of a name, up to which its exponent goes behind it
STRIP_POINTS = 9.0  # height of one method's line of failures above the axes


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure."""

    colour: tuple[float, float, float]
    marker: str
    dashes: tuple[float, ...]  # on, off, ... in line widths; () is a solid line


def styles(frame: DataFrame) -> dict[str, Style]:
    """The style of each method label: by its place among the sorted labels, the same in every figure.

    Numbers in labels are sorted as numbers: chunk_size=8 comes before chunk_size=16.
    """
    labels = sorted(set(frame["label"].astype("object").fillna("?")), key=_natural)
    return {
        label: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, label in enumerate(labels)
    }


def _natural(label: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", label)]


def draw(ax: Axes, rows: DataFrame, looks: Mapping[str, Style], medium: Medium) -> None:
    """One panel over P: rows with columns x and y where `drawn`, as lines; the others above the axes."""
    drawn = rows[rows["drawn"]]
    shape: dict[str, Any] = {
        "dashes": {label: look.dashes or "" for label, look in looks.items()},
        "estimator": "median",
        "errorbar": interval,
        "err_style": "bars",
    }
    if len(drawn):
        seaborn.lineplot(
            drawn,
            x="x",
            y="y",
            hue="label",
            style="label",
            legend=False,
            ax=ax,
            **medium.scaled(LINE | MARKER),
            palette={label: look.colour for label, look in looks.items()},
            markers={label: look.marker for label, look in looks.items()},
            **shape,
        )
    rings(ax, drawn, medium)
    for line, (label, failed) in enumerate(rows[~rows["drawn"]].groupby("label")):
        raised = led(ax, line, [looks[str(label)]], medium)
        place = blended_transform_factory(ax.transData, ax.transAxes) + raised
        for status, group in failed.groupby("status"):
            ax.plot(
                group["x"],
                [1.0] * len(group),
                **medium.scaled(_letter(status)),
                color=looks[str(label)].colour,
                clip_on=False,
                transform=place,
            )


def rings(ax: Axes, drawn: DataFrame, medium: Medium) -> None:
    """What is around a marker that was measured under contention, or is not right."""
    contended = drawn[drawn["contended"]]
    ax.plot(contended["x"], contended["y"], **medium.scaled(CONTENDED))
    suspect = drawn[drawn["status"] != "ok"].groupby(["label", "params"])[["x", "y"]].median()
    ax.plot(suspect["x"], suspect["y"], **medium.scaled(SUSPECT))


def led(ax: Axes, line: int, looks: Sequence[Style], medium: Medium) -> ScaledTranslation:
    """The markers that lead a line above the axes; how far that is above them."""
    up = (5 + line * STRIP_POINTS) * medium.scale / 72
    for place, look in enumerate(looks):
        aside = ScaledTranslation((place * STRIP_POINTS - 4) * medium.scale / 72, up, ax.figure.dpi_scale_trans)
        ax.plot(
            [0],
            [1],
            marker=look.marker,
            **medium.scaled(MARKER),
            color=look.colour,
            clip_on=False,
            transform=ax.transAxes + aside,
        )
    return ScaledTranslation(0, up, ax.figure.dpi_scale_trans)


def _letter(status: object) -> dict[str, Any]:
    return {"marker": rf"$\mathbf{{{LETTERS[str(status)]}}}$", "markersize": 6, "markeredgewidth": 0, "linestyle": ""}


def handles(
    rows: DataFrame, looks: Mapping[str, Style], by_size: bool, tolerance: bool, floored: bool, medium: Medium
) -> list[Line2D]:
    """For the legend: every method of the run, then each mark that this figure has."""
    found = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            label=safe(label, 34),
            gid=label,
            linestyle=(0, look.dashes) if look.dashes else "-",
            **medium.scaled(LINE | MARKER),
        )
        for label, look in looks.items()
    ]
    suspect = rows.loc[rows["drawn"] & (rows["status"] != "ok"), "status"].unique()
    if len(suspect):
        found.append(Line2D([], [], **medium.scaled(SUSPECT), label=f"measured, but {' or '.join(suspect)}"))
    if rows.loc[rows["drawn"], "contended"].any():
        found.append(Line2D([], [], **medium.scaled(CONTENDED), label="measured under contention"))
    if by_size:
        for status in rows.loc[~rows["drawn"], "status"].unique():
            word = WORDS.get(str(status), status)
            found.append(Line2D([], [], **medium.scaled(_letter(status)), color="0.2", label=f"{word} (above its P)"))
    if tolerance:
        found.append(Line2D([], [], **medium.scaled(TOLERANCE), label="tolerance"))
    if floored:
        found.append(Line2D([], [], **medium.scaled(FLOOR), label="exactly 0, drawn here"))
    return found


def exponents(legend: Sequence[Line2D], powers: Mapping[str, Fit]) -> None:
    """Tell each label's exponent of P behind it in a legend, with its interval; below it where it is long."""
    for handle, seen in ((handle, powers.get(str(handle.get_gid()))) for handle in legend):
        if seen is not None:
            name = str(handle.get_label())
            told = f"$P^{{{seen.exponent:.1f}}}$ [{seen.low:.1f}, {seen.high:.1f}]"
            last = name.rsplit("\n", maxsplit=1)[-1]
            handle.set_label(f"{name}{'  ' if len(last) < BEFORE_EXPONENT else chr(10)}{told}")


def safe(text: str, width: int) -> str:
    """Arbitrary text for matplotlib: wrapped, no mathematics, no glyph the font has not, no hidden legend entry."""
    wrapped = textwrap.fill(drawable(text), width).replace("$", r"\$")
    return f" {wrapped}" if wrapped.startswith("_") else wrapped


def drawable(text: str) -> str:
    """Arbitrary text on one line without a glyph that the font has not."""
    return plain(text).encode("latin-1", "backslashreplace").decode("latin-1")
