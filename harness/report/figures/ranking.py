"""The ranking: a line for each method with its time, peak memory and error, and below them what failed and why."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from harness.analysis.claims import RATE
from harness.analysis.ranking import Ranking
from harness.analysis.table import Analysis
from harness.report.figures.canvas import RC, caption
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.ranking_columns import CONTENDED, MARGIN, columns
from harness.report.figures.ranking_panel import Panel
from harness.report.figures.sheet import Sheet
from harness.report.leaderboard import UNDECIDED

SCREEN_IN = 8.0  # width where none was asked for
LINES = 36  # methods of all places that one file holds
MOST = 12  # files; table.csv has all places
FEW, MANY = 2, 100  # files where there are more than MANY places: most are left out in either case
LONGEST_SLUG = 80  # characters of a file's name
CAPTION_PT = 8.0  # height of a line of the caption
CAPTION_FROM_BELOW = 0.01  # of the figure's height
MEANING = """Time: median of a call over processes, with its 95 % interval (below six processes: their range). × best: \
time over that of the best right method, process by process. Peak: tensor memory above the start of the call. Error: \
relative distance from the reference."""


def ranking(rankings: Sequence[Ranking], analysis: Analysis, medium: Medium = SCREEN, of: int = 1) -> Figure:
    """A panel for each ranking, one below the other, out of so many places."""
    width_in = medium.width_in or SCREEN_IN
    width = width_in * 72 / medium.scale
    placed = columns(rankings, width, narrow_text=medium.width_in is not None)
    panels = [Panel(found, placed) for found in rankings]
    with matplotlib.rc_context(RC):
        figure = Figure((width_in, 1.0))
        lost = f" Places without such a figure: {of - most(of)} (values: table.csv)." if of > most(of) else ""
        caption(figure, f"{_note(rankings)}{lost} {analysis.environment}.", medium)
        below = CAPTION_PT * (figure.get_supxlabel().count("\n") + 1) + 2 * MARGIN
        height = (sum(panel.height for panel in panels) + below) / (1 - CAPTION_FROM_BELOW)
        figure.set_size_inches(width_in, height * medium.scale / 72)
        sheet = Sheet(figure, medium)
        top = 0.0
        for panel in panels:
            panel.draw(sheet, top)
            top += panel.height
    return figure


def sheets(rankings: Sequence[Ranking]) -> dict[str, list[Ranking]]:
    """File names, and the rankings of each: all in one `ranking` where they fit, else one a file, of `most` places.

    A file is called `ranking_mlp_7960_float32`: by what its title says.
    """
    if not rankings:
        return {}
    if len(rankings) == 1 or sum(len(found.entries) for found in rankings) <= LINES:
        return {"ranking": list(rankings)}
    sheets: dict[str, list[Ranking]] = {}
    for found in rankings[: most(len(rankings))]:
        name = slug = f"ranking_{_slug(found)}"
        number = 1
        while name in sheets:
            number += 1
            name = f"{slug}_{number}"
        sheets[name] = [found]
    return sheets


def most(places: int) -> int:
    """How many of so many places have a file of their own."""
    return min(places, MOST if places <= MANY else FEW)


def _slug(ranking: Ranking) -> str:
    """The place in letters and digits that any file system takes."""
    size = "" if math.isnan(ranking.params) else f"{ranking.params:.0f}"
    quantity = "" if ranking.quantity == "hessian" else ranking.quantity
    words = re.findall(r"[a-z0-9]+", " ".join([ranking.family, size, quantity, *ranking.settings]).lower())
    return "_".join(words)[:LONGEST_SLUG]


def _note(rankings: Sequence[Ranking]) -> str:
    """What the numbers and marks mean."""
    entries = [entry for found in rankings for entry in found.entries]
    parts = [MEANING]
    if any(found.baseline is not None and found.baseline.median_s > 0 for found in rankings):
        parts.append("Dashed line: time of the baseline.")
    if any(entry.wrong for entry in entries):
        parts.append("Crossed out: the result is wrong.")
    if any(entry.approximate for entry in entries):
        parts.append("≈: an approximation by design, which no comparison counts.")
    if any(entry.contended and not entry.failed for entry in entries):
        parts.append(f"{CONTENDED}: measured under contention, or while the GPU throttled.")
    if any(entry.undecided for entry in entries):
        parts.append(f"{UNDECIDED}: not claimed to be slower than the best (undecided, or of a single process).")
    if any(entry.slower for entry in entries):
        parts.append(
            f"Without {UNDECIDED}: slower; at most {100 * RATE:g} % of these are expected to be wrong by chance."
        )
    return " ".join(parts)
