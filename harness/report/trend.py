"""The trend in words: trend.md."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas
from pandas import DataFrame

from harness.analysis.history import changes
from harness.analysis.steps import EFFECT, FALSE_ALARMS, LEAST, nights_needed
from harness.analysis.trend import Step, Trend, times
from harness.text import escaped

HEADINGS = ("step", "cell", "ratio", "last night before", "first night after", "commits", "attributed to")


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
    return f"{told}, too few to find steps of time" if few else told


def notes(seen: Trend) -> str:
    """What a step is, and what is not reported."""
    level = FALSE_ALARMS / max(seen.series, 1)
    return (
        f"Time: the median over the processes of a nightly run. A step of time is reported if it is {EFFECT:.0%} or "
        f"more, and if an exact rank test separates the nights before from those after (at least {LEAST} each). With "
        f"{seen.series} series this takes {nights_needed(level)} nights or more. If the noise of one night is "
        f"independent of the next, a page has any false step with a probability of at most {FALSE_ALARMS:.0%}. Where "
        "the noise is a third of a step, one step in eight is placed a night too early or late. Times of different "
        "machines are never compared. Counters and tensor peaks are exact, so every change of one is a step. A cell "
        "that was ok and no longer is counts as broken, and the reverse as fixed. If torch, the machine or a package "
        "changed at a step, the step is attributed to that and not to the commits."
    )


def markdown(seen: Trend) -> str:
    """The headline, the steps as a table, and what they are."""
    table = DataFrame([texts(step) for step in seen.steps], columns=list(HEADINGS)).map(escaped)
    steps = table.to_markdown(index=False, disable_numparse=True) + "\n\n" if seen.steps else ""
    return f"# {headline(seen)}\n\n{steps}{notes(seen)}\n"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"
