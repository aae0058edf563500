"""Ways compared over many cells: performance profiles, and speed-ups over one of them."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy
import pandas
from matplotlib.figure import Figure
from pandas import DataFrame, Series
from scipy import stats

from harness.report.figures import RC
from harness.report.marks import safe, styles
from harness.report.rows import CELL, differing, environment, prepared

FEWEST = 5  # cells of a profile
ENOUGH = 6  # processes of both ways from which on a speed-up has an interval


def ratios(frame: DataFrame) -> DataFrame:
    """Each way's median time over that of the best right one: a row a cell, a column a way; failures are infinite."""
    rows = prepared(frame)
    where = [column for column in CELL if column not in ("label", "limit_s", "passes", "measure", "packages")]
    right = rows.groupby([*where, "label"], dropna=False)["status"].agg(lambda seen: bool(seen.eq("ok").all()))
    times = rows.groupby([*where, "label"], dropna=False)["median_s"].median().where(right)
    wide = times.unstack("label")
    wide = wide[wide.notna().any(axis=1)]
    return wide.div(wide.min(axis=1), axis=0).fillna(numpy.inf)


def performance_profile(frame: DataFrame) -> Figure:
    """The share of cells in which a way takes at most tau times as long as the fastest that is right.

    Dolan and More, "Benchmarking optimization software with performance profiles", Math. Program. 91 (2002).
    """
    found = ratios(frame)
    looks = styles(prepared(frame))
    shares = {str(way): found[way].to_numpy() for way in found}
    order = sorted(shares, key=lambda way: (-(shares[way] <= 1).mean(), -numpy.isfinite(shares[way]).mean()))
    finite = found.to_numpy()[numpy.isfinite(found.to_numpy())]
    end = float(finite.max()) * 1.2
    with matplotlib.rc_context(RC):
        figure = Figure((6.2, max(3.4, 0.16 * len(order) + 1)), layout="constrained")
        ax = figure.subplots()
        for way in order:
            steps = numpy.sort(shares[way][numpy.isfinite(shares[way])])
            heights = numpy.arange(1, len(steps) + 1) / len(found)
            look: dict[str, Any] = {"color": looks[way].colour, "dashes": looks[way].dashes or (None, None)}
            ax.step([1, *steps, end], [0, *heights, heights[-1] if len(steps) else 0], where="post", lw=1.3,
                    label=f"{safe(way, 40)} ({(shares[way] <= 1).mean():.0%})", **look)  # fmt: skip
        ax.set(xscale="log", xlim=(1, end), ylim=(0, 1.02), xlabel="times as long as the fastest, at most",
               ylabel="share of cells")  # fmt: skip
        ax.grid(linewidth=0.5, color="0.9")
        figure.legend(loc="outside right upper", fontsize=6.5, frameon=False, title="fastest in", title_fontsize=7)
        note = f"{len(found)} cells; what failed or is wrong never gets there. {environment(prepared(frame))}."
        figure.supxlabel(safe(note, 118), fontsize=6, x=0.01, ha="left", color="0.3")
    return figure


def speedups(frame: DataFrame, baseline: str) -> DataFrame:
    """How many times as fast as `baseline` each other way is in every cell where both are right.

    Columns: the cell's, label, params, speedup, low, high, and `by`: how the interval was found (bootstrap of the
    medians over processes; with fewer than ENOUGH of them the range of all ratios). Raises ValueError for a baseline
    that no row has, or that is right nowhere where another is.
    """
    rows = prepared(frame)
    labels = sorted(set(rows["label"]))
    if baseline not in labels:
        raise ValueError(f"baseline {baseline} is no method of these records; they have {', '.join(labels)}")
    rows = rows[(rows["status"] == "ok") & (rows["median_s"] > 0)]
    where = ["problem", "problem_options", "quantity", "params", *differing(rows)]
    found = []
    for _, group in rows.groupby(where, dropna=False):
        base = group.loc[group["label"] == baseline, "median_s"]
        for label, own in group[group["label"] != baseline].groupby("label") if len(base) else ():
            low, high, by = _interval(base, own["median_s"])
            found.append(group.iloc[0][where].to_dict() | {"label": label, "low": low, "high": high, "by": by,
                         "speedup": base.median() / own["median_s"].median()})  # fmt: skip
    if not found:
        raise ValueError(f"baseline {baseline} is right and timed in no cell where another method is; take another")
    return DataFrame(found, columns=[*where, "label", "speedup", "low", "high", "by"])


def _interval(base: Series, own: Series) -> tuple[float, float, str]:
    if min(len(base), len(own)) < ENOUGH:
        return base.min() / own.max(), base.max() / own.min(), "range"
    seen = stats.bootstrap(
        (base.to_numpy(), own.to_numpy()), lambda a, b, axis: numpy.median(a, axis=axis) / numpy.median(b, axis=axis),
        vectorized=True, method="percentile", rng=numpy.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(seen.low), float(seen.high), "bootstrap"


def speedup_against_size(frame: DataFrame, baseline: str) -> Figure:
    """Speed-ups over a way against P, with their intervals; a panel a problem."""
    found = speedups(frame, baseline)
    looks = styles(prepared(frame))
    panels = list(found.groupby("problem"))
    with matplotlib.rc_context(RC):
        figure = Figure((3.0 * min(len(panels), 3) + 2, 2.6 * -(-len(panels) // 3) + 0.6), layout="constrained")
        axes = figure.subplots(-(-len(panels) // 3), min(len(panels), 3), squeeze=False, sharey=True).flat
        drawn: dict[str, Any] = {}
        for ax, (problem, group) in zip(axes, panels, strict=False):
            for label, rows in group.groupby("label"):
                rows = rows.groupby("params")[["speedup", "low", "high"]].median()
                error = (rows["speedup"] - rows["low"], rows["high"] - rows["speedup"])
                look = looks[str(label)]
                drawn[str(label)] = ax.errorbar(rows.index, rows["speedup"], [e.clip(lower=0) for e in error], lw=1.1,
                                                color=look.colour, marker=look.marker, capsize=2)  # fmt: skip
            ax.axhline(1, color="0.35", lw=0.8)
            ax.set(xscale="log", yscale="log", xlabel="parameters P", ylabel=f"times as fast as {safe(baseline, 24)}")
            ax.set_title(safe(str(problem), 40), fontsize=8)
            ax.label_outer()
        figure.legend(drawn.values(), [safe(label, 40) for label in drawn], loc="outside right upper", fontsize=7,
                      frameon=False)  # fmt: skip
        by = " and ".join(sorted(set(found["by"])))
        said = f"Ratio of medians over processes; intervals: {by}. {environment(prepared(frame))}."
        figure.supxlabel(safe(said, 110), fontsize=6, x=0.01, ha="left", color="0.3")
    return figure


def enough(frame: DataFrame) -> bool:
    """Whether there are cells and ways enough for a profile."""
    found = ratios(frame) if frame["median_s"].notna().any() else pandas.DataFrame()
    return len(found) >= FEWEST and found.shape[1] > 1
