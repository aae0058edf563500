"""How many times as fast as one way, the baseline, all others are: as numbers, tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from harness.analysis.ratios import ratio
from harness.analysis.table import differing, environment, escaped, plain, prepared, setting, significant
from harness.record.identity import PROBLEM
from harness.report import latex
from harness.report.figures.canvas import canvas, caption, drawing, outer_labels, plain_numbers
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.style import BAR, LINE, MARKER, safe, styles

ONE: dict[str, Any] = {"color": "0.35", "linewidth": 0.8}
MEANING = """Times as fast: the median over processes of the ratio of the two times, paired by seed and round, with \
its 95 % interval"""


def speedups(frame: DataFrame, baseline: str) -> DataFrame:
    """How many times as fast as `baseline` each other way is in every cell where both are right.

    Columns: `place` (problem, quantity and settings), params, label, speedup, low, high (NaN where nothing tells an
    interval), processes, and `by`: how the interval was found (`harness.analysis.ratios`). Raises ValueError for a
    baseline that no row has, or that is right nowhere where another is.
    """
    rows = prepared(frame)
    labels = sorted(set(rows["label"]))
    if baseline not in labels:
        raise ValueError(f"baseline {baseline} is no method of these records; they have {', '.join(labels)}")
    keys = ["problem", "quantity", *differing(rows)]
    cell = [*keys, *PROBLEM[1:], "params"]
    right = rows.groupby([*cell, "label"], dropna=False)["status"].transform(lambda seen: seen.eq("ok").all())
    found = []
    for _, group in rows[right & (rows["median_s"] > 0)].groupby(cell, dropna=False):
        base = group[group["label"] == baseline]
        first = group.iloc[0]
        place = [plain(first["problem"]), plain(first["quantity"]), *(setting(key, first[key]) for key in keys[2:])]
        for label, own in group[group["label"] != baseline].groupby("label") if len(base) else ():
            seen = ratio(own, base)
            found.append(
                (", ".join(place), first["params"], label, seen.value, seen.low, seen.high, seen.processes, seen.by)
            )
    if not found:
        raise ValueError(f"baseline {baseline} is right and timed in no cell where another method is; take another")
    found.sort(key=lambda line: line[:3])
    return DataFrame(found, columns=["place", "params", "label", "speedup", "low", "high", "processes", "by"])


def markdown(found: DataFrame, frame: DataFrame, baseline: str) -> str:
    """speedups.md: all of them, with their intervals."""
    table = _texts(found, significant).map(escaped).to_markdown(index=False, disable_numparse=True)
    title = f"# Times as fast as {escaped(plain(baseline))}"
    return f"{title}\n\n{MEANING} ({_by(found)}).\n\n{table}\n\n{escaped(environment(prepared(frame)))}.\n"


def tables(found: DataFrame, frame: DataFrame, baseline: str) -> str:
    """speedups.tex: the same, the best of each cell in bold."""
    rows = prepared(frame)
    best = found["speedup"] == found.groupby(["place", "params"])["speedup"].transform("max")
    title = f"Times as fast as {latex.tex(baseline)}, in bold the most of each $P$"
    caption = f"{title}. {latex.tex(MEANING)} ({latex.tex(_by(found))}): from, to. {latex.tex(environment(rows))}."
    listing = latex.listing(
        _texts(found, latex.digits),
        caption,
        f"tab:speedups{latex.problem(rows)}",
        list(found.index[best]),
        "times as fast",
    )
    return latex.document([listing])


def _texts(found: DataFrame, written: Callable[[float], str]) -> DataFrame:
    texts = DataFrame(
        {"where": found["place"], "P": found["params"].map("{:.0f}".format), "method": found["label"].map(plain)}
    )
    for heading, column in (("times as fast", "speedup"), ("from", "low"), ("to", "high")):
        texts[heading] = [written(value) if math.isfinite(value) else "" for value in found[column]]
    return texts.assign(processes=found["processes"].map(str))


def _by(found: DataFrame) -> str:
    return ", or ".join(sorted(set(found["by"])))


def speedup_against_size(frame: DataFrame, baseline: str, medium: Medium = SCREEN) -> Figure:
    """Speed-ups over a way against P, with their intervals; a panel a problem, quantity and setting."""
    found = speedups(frame, baseline)
    looks = styles(prepared(frame))
    panels = list(found.groupby("place", sort=False))
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
        note = f"Baseline: {plain(baseline)}. {MEANING} ({_by(found)}). {environment(prepared(frame))}."
        caption(figure, note, medium)
    return figure
