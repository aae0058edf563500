"""The trend as one HTML file that needs nothing else: the steps as a table, every cell as an SVG picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import Timestamp

from harness.analysis.trend import Trend
from harness.record import plain
from harness.report.trend import HEADINGS, headline, notes, texts
from harness.report.trend_view import Panel, panels
from harness.text import significant

WIDTH, HEIGHT = 360, 150  # of a picture, in pixels
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 8, 128  # of its axes


def html(seen: Trend) -> str:
    """The page; every text out of a record is escaped by the template."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    dates = [date for history in seen.histories for date in history.nights["date"]]
    across = _scale(min(dates).timestamp(), max(dates).timestamp(), LEFT, RIGHT)
    return templates.get_template("trend.html.jinja").render(
        headline=headline(seen),
        notes=notes(seen),
        headings=HEADINGS,
        steps=[texts(step) for step in seen.steps],
        panels=[_picture(panel, lambda date: across(date.timestamp())) for panel in panels(seen)],
        first=f"{min(dates):%Y-%m-%d}",
        last=f"{max(dates):%Y-%m-%d}",
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=BOTTOM,
    )


def _picture(panel: Panel, across: Callable[[Timestamp], float]) -> dict[str, Any]:
    """A panel in pixels, with the text that shows where the pointer rests."""
    values = [value for line in panel.lines for column in ("low", "high") for value in line[column]]
    low, high = min(values, default=0.0), max(values, default=1.0)
    up = _scale(low, high, BOTTOM - 8, TOP + 8)
    return {
        "cell": panel.cell,
        "title": panel.title,
        "low": significant(low),
        "high": significant(high),
        "up_low": up(low),
        "up_high": up(high),
        "empty": not values,
        "nights": [
            {
                "x": across(night["date"]),
                "y": up(night["value"]),
                "low": up(night["low"]),
                "high": up(night["high"]),
                "machine": place % 4,
                "contended": night["contended"],
                "text": f"{plain(Path(night['night']).name)}: {significant(night['value'])}, {plain(night['machine'])}",
            }
            for place, line in enumerate(panel.lines)
            for _, night in line.iterrows()
        ],
        "levels": [(across(start), across(end), up(value)) for start, end, value in panel.levels],
        "events": [
            (kind, across(date), f"{date:%Y-%m-%d}: {text}")
            for kind, events in (("change", panel.changes), ("step", panel.steps))
            for date, text in events
        ],
        "failures": [(across(date), f"{date:%Y-%m-%d}: {status}") for date, status in panel.failures],
    }


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From [low, high] to pixels; to the middle where they are the same."""
    if low == high:
        return lambda _: (start + end) / 2
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)
