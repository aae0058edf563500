"""The figures: what each shows, its panels and its scales. A failure is marked, never left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pandas import DataFrame

from harness.report.marks import FLOOR, STRIP_POINTS, TOLERANCE, draw, handles, safe, styles
from harness.report.medium import SCREEN, Medium, places
from harness.report.rows import counted, differing, environment, plain, prepared, setting
from harness.report.verdicts import SHOWN, VERDICTS, listed, order, percent, verdicts

RC: dict[Any, Any] = {"text.usetex": False, "font.family": "DejaVu Sans", "pdf.fonttype": 42, "figure.dpi": 100,
                      "svg.hashsalt": "harness"}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """What an axis shows: values are divided by `unit` when drawn."""

    column: str
    title: str
    unit: float = 1.0


SIZE = Axis("params", "parameters P")
MEMORY = Axis("tensor_peak_bytes", "tensor peak (MiB)", 2**20)


def time_against_size(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """Median time of a call against P, with its interval over processes."""
    rows = prepared(frame)
    note = "Median over processes of each one's median, with its 95 % interval (below six processes: their range)."
    return _figure(rows, SIZE, _time(rows, "median_s"), note, medium)


def memory_against_size(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """Peak of tensor memory above the start of the call against P."""
    return _figure(prepared(frame), SIZE, MEMORY, "Peak of tensor memory above the start of the call.", medium)


def error_against_size(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """Relative error against P, a panel a dtype, with the tolerance."""
    axis = Axis("relative_error", "relative error")
    return _figure(prepared(frame), SIZE, axis, "Frobenius distance from the reference over its norm.", medium)


def time_against_memory(frame: DataFrame, medium: Medium = SCREEN) -> Figure:
    """Median time of a call against peak tensor memory; a line goes from a method's smallest P to its largest."""
    rows = prepared(frame)
    note = "Median time; a line goes from the least P to the largest."
    return _figure(rows, MEMORY, _time(rows, "median_s"), note, medium)


def coverage(frame: DataFrame) -> Figure:
    """Methods against cases, coloured by verdict; cases with the same verdicts share a line, which names them."""
    cells = verdicts(frame)
    ways = order(cells)
    wide = cells.pivot(index=["kind", "case"], columns="way", values="verdict")[ways]
    errors = cells.pivot(index=["kind", "case"], columns="way", values="relative_error")[ways]
    lines = []
    for pattern, group in wide.groupby([wide[way] for way in ways], sort=False):
        kinds, cases = (list(group.index.get_level_values(level)) for level in ("kind", "case"))
        lines.append((kinds, cases, pattern, errors.loc[group.index].max()))
    lines.sort(key=lambda line: (-sum(verdict == "wrong" for verdict in line[2]),
                                 -sum(verdict == "not finite" for verdict in line[2]), -len(line[1])))  # fmt: skip
    names = list(VERDICTS)
    codes = [[names.index(verdict) for verdict in pattern] for _, _, pattern, _ in lines]
    size = (0.36 * len(ways) + 4.2, 0.19 * len(lines) + 2.6)
    with matplotlib.rc_context(RC):
        figure = Figure(size, layout="constrained")
        ax = figure.subplots()
        colours = ListedColormap([colour for colour, _ in VERDICTS.values()])
        ax.pcolormesh(codes, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, edgecolors="white", linewidth=0.8)
        ax.invert_yaxis()
        for y, (_, _, pattern, worst) in enumerate(lines):
            for x, (way, verdict) in enumerate(zip(ways, pattern, strict=True)):
                if verdict == "wrong":
                    ax.text(
                        x + 0.5, y + 0.5, percent(worst[way]), ha="center", va="center", fontsize=5.5, color="white"
                    )
        ax.set_yticks(
            [y + 0.5 for y in range(len(lines))], [safe(listed(cases), 2 * SHOWN) for _, cases, _, _ in lines]
        )
        ax.set_xticks(
            [x + 0.5 for x in range(len(ways))],
            [safe(way, SHOWN) for way in ways],
            rotation=55,
            ha="left",
            rotation_mode="anchor",
        )
        ax.tick_params(labelsize=6.5, length=0, labeltop=True, labelbottom=False, top=False, bottom=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        used = {name for row in codes for name in row}
        patches = [Patch(facecolor=colour, edgecolor="0.6", label=name)
                   for place, (name, (colour, _)) in enumerate(VERDICTS.items()) if place in used]  # fmt: skip
        figure.legend(handles=patches, loc="outside lower left", ncols=len(patches), fontsize=7, frameon=False)
        note = f"{wide.shape[0]} cases; those with the same verdicts share a line. {environment(prepared(frame))}."
        ax.set_xlabel(safe(note, int(size[0] * 15)), fontsize=6, loc="left", color="0.3")
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png, `stem`.pdf and `stem`.svg, the same bytes for the same figure."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf", "svg")]
    with matplotlib.rc_context(RC):
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"CreationDate": None})
        figure.savefig(paths[2], metadata={"Date": None})
    return paths


def _time(rows: DataFrame, column: str) -> Axis:
    slow = rows[column].max() >= 1
    return Axis(column, "time (s)" if slow else "time (ms)", 1.0 if slow else 1e-3)


def _figure(rows: DataFrame, x: Axis, y: Axis, note: str, medium: Medium) -> Figure:
    """Panels of prepared rows, a legend, and below what the numbers are and where they come from."""
    looks = styles(rows)
    rows, floors = _drawable(rows, x, y)
    placed = rows[rows["params"].notna()]
    keys = ["problem", "quantity", *differing(placed)]
    panels = [(values, group) for values, group in placed.groupby(keys, dropna=False)] or [((), placed)]
    tolerances = y.column == "relative_error" and placed["tolerance"].notna().any()
    legend = handles(placed, looks, x is SIZE, bool(tolerances), any(floor is not None for floor in floors), medium)
    strips = [group.loc[~group["drawn"], "label"].nunique() * STRIP_POINTS for _, group in panels]
    at = places(medium, len(panels), max(strips) / 72, [str(handle.get_label()) for handle in legend])
    context = seaborn.plotting_context("paper", font_scale=medium.labels_pt / SCREEN.labels_pt)
    with matplotlib.rc_context(RC), seaborn.axes_style("whitegrid"), context:
        figure = Figure(at.size_in, layout="constrained")
        axes = list(figure.subplots(at.lines, at.columns, sharex=True, sharey=True, squeeze=False).flat)
        for ax, strip, (values, group) in zip(axes, strips, panels, strict=False):
            draw(ax, group, looks, x is SIZE, medium)
            title = ", ".join([*map(plain, values[:2]), *map(setting, keys[2:], values[2:])])
            ax.set_title(safe(title, at.title), fontsize=8 * medium.scale, pad=(strip + 5) * medium.scale)
            ax.set(xlabel=x.title, ylabel=y.title)
            for tolerance in group["tolerance"].dropna().unique() if tolerances else ():
                ax.axhline(tolerance, **medium.scaled(TOLERANCE))
            for line, floor in zip((ax.axvline, ax.axhline), floors, strict=True):
                if floor is not None:
                    line(floor, **medium.scaled(FLOOR))
        _scales(axes, placed, x, y, at.crowded)
        _outer_labels(axes, len(panels), at.columns, x.title)
        figure.legend(handles=legend, fontsize=7 * medium.scale, frameon=False, handlelength=2.8, **at.legend)
        lost = counted(rows.loc[rows["params"].isna() & ~rows.index.duplicated(), "status"])
        caption = f"{note} {environment(rows)}." + (f" Not drawn, since their P is unknown: {lost}." if lost else "")
        text = safe(caption, int(at.size_in[0] / medium.scale * 19))
        figure.supxlabel(text, fontsize=6 * medium.scale, x=0.01, ha="left", color="0.3")
    return figure


def _drawable(rows: DataFrame, x: Axis, y: Axis) -> tuple[DataFrame, list[float | None]]:
    """Rows with columns x and y in drawn units and `drawn`, whether both are there; where zeros of each are put.

    Zero has no place on a logarithmic axis: it is put on a floor, a decade or so below all other values.
    """
    rows, floors = rows.copy(), []
    for name, axis in (("x", x), ("y", y)):
        values = rows[axis.column] / axis.unit
        least = values[values > 0].min()
        floor = 10.0 ** (math.floor(math.log10(least)) - 1) if least > 0 else 1e-17
        rows[name] = values.mask(values <= 0, floor)
        floors.append(floor if (values <= 0).any() else None)
    rows["drawn"] = rows["x"].notna() & rows["y"].notna()
    rows["contended"] &= y.column == "median_s"
    return rows, floors


def _scales(axes: list[Axes], rows: DataFrame, x: Axis, y: Axis, crowded: float) -> None:
    """Logarithmic scales with plain numbers, fewer where crowded, wide enough for every P; none where nothing is."""
    for ax in axes:
        ax.set(xscale="log", yscale="log")
        ax.grid(which="major", linewidth=0.5, color="0.9")
        if x is SIZE and len(rows):
            margin = max((rows["x"].max() / rows["x"].min()) ** 0.07, 1.1)
            ax.set_xlim(rows["x"].min() / margin, rows["x"].max() * margin)
        if not rows["drawn"].any():
            ax.set(ylim=(0.1, 10), yticks=[])
            ax.text(0.5, 0.5, "nothing was measured", ha="center", transform=ax.transAxes)
            if x is not SIZE or rows.empty:
                ax.set(xlim=(0.1, 10), xticks=[])
                continue
        shown = (ax.xaxis, *([ax.yaxis] if rows["drawn"].any() and y.column != "relative_error" else []))
        for axis in shown:
            low, high = axis.get_view_interval()
            decades = math.log10(high / low) * (crowded if axis is ax.xaxis else 1)
            steps = range(1, 10) if decades < 0.7 else (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 3 else (1,)
            axis.set_major_locator(LogLocator(subs=list(steps)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _outer_labels(axes: list[Axes], used: int, columns: int, title: str) -> None:
    """Labels only where no panel follows below or to the left; unused places stay empty."""
    for index, ax in enumerate(axes):
        ax.label_outer()
        ax.set_visible(index < used)
        if index < used <= index + columns:
            ax.xaxis.set_tick_params(labelbottom=True)
            ax.set_xlabel(title, visible=True)
