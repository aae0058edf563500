"""The trend in words: trend.md, and which files the trend is written to."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas
from pandas import DataFrame

from harness.analysis.history import changes
from harness.analysis.steps import EFFECT, FALSE_ALARMS, LEAST, nights_needed
from harness.analysis.table import Analysis
from harness.analysis.trend import Step, Trend, times, trend
from harness.text import escaped

HEADINGS = ("step", "cell", "ratio", "last night before", "first night after", "commits", "put down to")


def texts(step: Step) -> dict[str, str]:
    """The step in words, under HEADINGS."""
    factor = "" if math.isnan(step.ratio) else f"{step.ratio:.4g}"
    width = f" ({step.low:.3g} to {step.high:.3g})" if step.low < step.high else ""
    nights = (f"{night['date']:%Y-%m-%d %H:%M}" for night in (step.before, step.after))
    told = (f"{step.measure}: {step.said}", step.cell, factor + width, *nights, _commits(step), _cause(step))
    return dict(zip(HEADINGS, told, strict=True))


def _cause(step: Step) -> str:
    together = "; ".join(changes(step.before, step.after))
    return together or ("the commits" if ".." in _commits(step) else "nothing that is recorded")


def _commits(step: Step) -> str:
    """A range for git; a record's text is only taken for a commit where it is nothing else."""
    ends = [night["commit"] for night in (step.before, step.after)]
    if not all(isinstance(end, str) and re.fullmatch("[0-9a-f]{7,64}", end) for end in ends):
        return "unknown"
    changed = any(pandas.notna(night["dirty"]) and night["dirty"] for night in (step.before, step.after))
    dirty = ", with uncommitted changes" if changed else ""
    shown = f"{ends[0][:12]}, the same" if ends[0] == ends[1] else f"{ends[0][:12]}..{ends[1][:12]}"
    return shown + dirty


def headline(seen: Trend) -> str:
    """`3 steps in 42 cells over 60 nights`."""
    nights = len(set().union(*(history.nights["night"] for history in seen.histories)))
    longest = max((len(known) for history in seen.histories for known in times(history)), default=0)
    few = longest < nights_needed(FALSE_ALARMS / max(seen.series, 1))
    told = f"{_count(seen.steps, 'step')} in {_count(seen.histories, 'cell')} over {nights} nights"
    return f"{told}, too few to tell steps of time" if few else told


def notes(seen: Trend) -> str:
    """What a step is, and what is not told."""
    level = FALSE_ALARMS / max(seen.series, 1)
    return (
        f"Time: the median over a night's processes. A step of it is told from {EFFECT:.0%} on, and where an exact "
        f"rank test tells the nights before from those after ({LEAST} at least), which with {seen.series} series "
        f"takes {nights_needed(level)} nights or more. If one night's noise tells nothing of the next's, the "
        f"probability that a page has any that is none is at most {FALSE_ALARMS:.0%}; where noise is a third of "
        "a step, one in eight is a night off. Times of different machines are never compared. Counters and tensor "
        "peaks are exact: every change of one is a step. A cell that was ok and is not is broken, the other way "
        "fixed. A step at which torch, the machine or a package changed is put down to that, not to the commits."
    )


def write(analysis: Analysis, out: Path) -> list[Path]:
    """Write trend.md, trend.html and the figure trend into `out`; the files written, none without enough nights."""
    from harness.report.figures.canvas import save
    from harness.report.figures.trend import figure
    from harness.report.web.trend import html

    seen = trend(analysis)
    if seen is None:
        return []
    for name, text in (("trend.md", markdown(seen)), ("trend.html", html(seen))):
        (out / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return [out / "trend.md", out / "trend.html", *save(figure(seen), out / "trend")]


def markdown(seen: Trend) -> str:
    """The headline, the steps as a table, and what they are."""
    table = DataFrame([texts(step) for step in seen.steps], columns=list(HEADINGS)).map(escaped)
    steps = table.to_markdown(index=False, disable_numparse=True) + "\n\n" if seen.steps else ""
    return f"# {headline(seen)}\n\n{steps}{notes(seen)}\n"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"
