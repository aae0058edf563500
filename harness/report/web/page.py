"""The report as one HTML file: leaderboard, summary, a chart with values, a table to sort and filter, and the figures.

Opened from disk it asks for nothing else, and its content security policy forbids it to. Text of records reaches it in
two ways only: through the template, which escapes, and as JSON, which its scripts put into text nodes.

The JSON holds every row, and of a column each different text once: 100,000 rows differ in few of their texts. The
scripts make the elements of a row when it is shown.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex
from pandas import DataFrame, Series, factorize

from harness.analysis.emphasis import baseline_of
from harness.analysis.leaderboard import leaderboard
from harness.analysis.table import Analysis, differing
from harness.record import FIELDS, plain
from harness.report import leaderboard as board
from harness.report.figures.style import Style, styles
from harness.report.readable import GROUPS, MAIN, MEASURED, MIB, SOMETIMES, asked, meanings, readable
from harness.report.summary import summary
from harness.report.versions import sections
from harness.text import counted, significant

WEB = Path(__file__).parent
SOURCES = {"P": "params", "from": "low_s", "to": "high_s"} | {
    heading: column for heading, column, *_ in (*MEASURED, *SOMETIMES)
}
KEPT = ("problem", "method", "status", "message")  # columns that are shown even where all rows agree
LEADERS = 40  # lines of the leaderboard
FIRST = 50  # rows that are shown where no script runs
LEADER_CLASSES = dict.fromkeys(board.NUMBERS, "number") | {
    "problem": "problem",
    "method": "best",
    "over the next": "next",
    "silently wrong": "wrong",
}
FIGURE_SPACE, PUNCTUATION_SPACE = "\u2007", "\u2008"  # as wide as a digit, and as a point


def page(
    analysis: Analysis,
    figures: Mapping[str, str],
    skipped: Sequence[str] = (),
    baseline: str | None = None,
    looks: Mapping[str, Style] | None = None,
) -> str:
    """The page, with figures (name -> SVG) and the files that were no records.

    `baseline` is the label of the method that the leaders are compared with (`harness.analysis.leaderboard`), `looks`
    are the styles of the methods in the figures.
    """
    shown = readable(analysis)
    leaders = leaderboard(analysis, baseline) if analysis.rows["label"].nunique() > 1 else []
    compared = baseline_of(analysis, baseline)
    rows = analysis.cells.loc[shown.index]
    style, *scripts = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "chart.js", "table.js"))
    environment = Environment(loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("index.html").render(
        title=f"Hessians: {_some(rows['method'], 'method')} on {_some(rows['family'], 'problem')}",
        counted=counted(rows["status"]),
        leaders=board.table(leaders, compared).to_dict("split"),
        leader_classes=LEADER_CLASSES,
        LEADERS=LEADERS,
        leader_notes=board.notes(leaders, compared),
        summary=[*sections(analysis), *summary(analysis)],
        skipped=[plain(text) for text in skipped],
        data=_data(shown, rows, looks or styles(analysis, baseline)),
        first=shown[[*asked(shown), *MAIN, "message"]].head(FIRST).to_dict("split"),
        figures={name: base64.b64encode(text.encode()).decode() for name, text in figures.items()},
        meanings=meanings(shown),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        hashes={"style": _hashed(style), "script": " ".join(map(_hashed, scripts))},
    )


def _some(values: Series, word: str) -> str:
    count = values.nunique()
    return f"{count} {word}" + ("s" if count != 1 else "")


def _hashed(text: str) -> str:
    """A source that the content security policy lets run: this text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(shown: DataFrame, rows: DataFrame, styled: Mapping[str, Style]) -> dict[str, Any]:
    """What the scripts build on: columns, and what is folded into a row; `places` and lists have an entry a row."""
    headings = list(map(str, shown.columns))
    groups = [heading for heading in headings if heading not in (*KEPT, *SOURCES)]
    same = {heading: shown[heading].iloc[0] for heading in groups if shown[heading].nunique() == 1}
    columns = [_column(heading, shown, rows) for heading in headings if heading not in same]
    details = {
        field.name: _texts(rows[field.name], field.type) for field in FIELDS if _is_detail(field.name, field.type)
    }
    details["record"] = _texts(rows["path"], "str")
    details = {name: texts for name, texts in details.items() if any(text is not None for text in texts["values"])}
    common = {name: texts["values"][0] for name, texts in details.items() if len(set(texts["values"])) == 1}
    looks = {label: look for label, look in styled.items() if look.emphasised and label in set(rows["label"])}
    others = [label for label in dict.fromkeys(rows["label"]) if label not in looks]
    look_of = {label: place for place, label in enumerate([*looks, *others])}
    series = rows.groupby(["family", "label", "quantity", "seed", *differing(rows)], dropna=False).ngroup()
    return {
        "rows": len(rows),
        "columns": [column for column in columns if column["numbers"] is None or any(column["texts"]["values"])],
        "same": same,
        "details": {name: texts for name, texts in details.items() if name not in common},
        "common": common,
        "looks": [
            *(_look(plain(label), to_hex(look.colour), look.marker, look.dashes) for label, look in looks.items()),
            *(_look(plain(label), None, "o", ()) for label in others),
        ],
        "look": [look_of[label] for label in rows["label"]],
        "series": series.tolist(),
    }


def _look(label: str, colour: str | None, marker: str, dashes: Sequence[float]) -> dict[str, Any]:
    """How the chart draws a method; without a colour it is grey."""
    spaced = " ".join(f"{length:g}" for length in dashes)
    return {"label": label, "colour": colour, "marker": marker, "dashes": spaced}


def _column(heading: str, shown: DataFrame, rows: DataFrame) -> dict[str, Any]:
    """A column's heading and texts; of a measured one also the numbers, in the unit of the heading.

    Times are all in ms, to compare at a glance. The columns that are not `main` are hidden at first.
    """
    if heading not in SOURCES:
        return {"heading": heading, "texts": _coded(shown[heading]), "numbers": None, "main": heading != "rounds"}
    numbers = rows[SOURCES[heading]].astype("float")
    in_ms = SOURCES[heading].endswith("_s")
    if in_ms:
        numbers = 1e3 * numbers
    elif heading.endswith("MiB"):
        numbers = numbers / MIB
    texts = [significant(number) for number in numbers] if in_ms else shown[heading]
    texts = aligned([text if known else "" for text, known in zip(texts, numbers.notna(), strict=True)])
    if heading == "time":
        texts = [
            f"* {text}" if contended and text else text
            for text, contended in zip(texts, rows["contended"], strict=True)
        ]
    return {
        "heading": f"{heading} ms" if in_ms else heading,
        "texts": _coded(texts),
        "numbers": [number if math.isfinite(number) else None for number in numbers],
        "main": heading in (*MAIN, "P"),
    }


def aligned(texts: list[str]) -> list[str]:
    """Numbers padded on the right, so that in a column set flush right their points are below one another."""
    places = max((len(text.partition(".")[2]) for text in texts), default=0)
    padded = []
    for text in texts:
        _, point, fraction = text.partition(".")
        point_or_space = "" if point or not places else PUNCTUATION_SPACE
        padded.append(text + point_or_space + FIGURE_SPACE * (places - len(fraction)) if text else "")
    return padded


def _is_detail(name: str, kind: str) -> bool:
    in_table = {"schema_version", "status", "message", "method", *GROUPS}
    return not kind.startswith("list") and name not in in_table and name != "traceback"


def _texts(values: Series, kind: str) -> dict[str, Any]:
    """Values of a record's field as text, null where there is none, in the form of `_coded`."""
    written = {"int": lambda value: f"{value:.0f}", "float": lambda value: f"{value:.6g}"}.get(kind, plain)
    places, different = factorize(values)
    texts = [*map(written, different), *([None] if (places < 0).any() else [])]
    return {"values": texts, "places": [place if place >= 0 else len(different) for place in places.tolist()]}


def _coded(texts: Iterable[str]) -> dict[str, Any]:
    """`values`: each different text once; `places`: for each row, where its text is among them."""
    places: dict[str, int] = {}
    of_rows = [places.setdefault(text, len(places)) for text in texts]
    return {"values": list(places), "places": of_rows}
