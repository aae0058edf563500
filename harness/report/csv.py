"""table.csv: every record, for programs and spreadsheets."""

from __future__ import annotations

import csv as csv_of
import io
import re
from functools import lru_cache
from typing import Any

from harness.analysis.table import Analysis
from harness.record import FIELDS

# What a spreadsheet may take for a formula (OWASP, "CSV Injection"), also in the full width of East Asian text.
FORMULA = re.compile("[=+@\uff1d\uff0b\uff0d\uff20-]")


def csv(analysis: Analysis) -> str:
    """Every record with all its columns but traceback and sketch; of times their number: `time_samples` of times_s.

    Texts are written by `harmless`.
    """
    rows = analysis.frame.drop(columns=["schema_version", "traceback", "sketch"])
    rows["warning"] = analysis.rows["warning"].to_numpy()
    lists = [field.name for field in FIELDS if field.type.startswith("list") and field.name in rows]
    rows[lists] = rows[lists].map(lambda times: len(times) if isinstance(times, list) else 0)
    whole = [field.name for field in FIELDS if field.type == "int" and field.name in rows]
    rows = rows.astype(dict.fromkeys(whole, "Int64"))
    texts = rows.select_dtypes(["object", "string"]).columns
    rows[texts] = rows[texts].map(harmless)
    numbers = {name: f"{name.removesuffix('_s').removesuffix('s')}_samples" for name in lists}
    columns = [column.astype("object").where(column.notna(), "").tolist() for _, column in rows.items()]
    text = io.StringIO()
    writer = csv_of.writer(text, lineterminator="\n")  # pandas takes three times as long
    writer.writerow([numbers.get(str(name), name) for name in rows])
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


@lru_cache(maxsize=2**12, typed=True)  # most texts of many records are equal
def harmless(value: Any) -> Any:
    """A text in which control characters are escaped, after an apostrophe where it looks like a formula."""
    if not isinstance(value, str):
        return value
    text = (
        value
        if value.isprintable()
        else "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in value)
    )
    return f"'{text}" if FORMULA.match(text.lstrip()) else text
