"""table.csv: every record, for programs."""

from __future__ import annotations

from harness.analysis.table import Analysis
from harness.record import FIELDS


def csv(analysis: Analysis) -> str:
    """Every record with all its columns but traceback and sketch; of times their number: `time_samples` of times_s."""
    rows = analysis.frame.drop(columns=["schema_version", "traceback", "sketch"])
    rows["warning"] = analysis.rows["warning"].to_numpy()
    lists = [field.name for field in FIELDS if field.type.startswith("list") and field.name in rows]
    rows[lists] = rows[lists].map(lambda times: len(times) if isinstance(times, list) else 0)
    whole = [field.name for field in FIELDS if field.type == "int" and field.name in rows]
    rows = rows.astype(dict.fromkeys(whole, "Int64"))
    numbers = {name: f"{name.removesuffix('_s').removesuffix('s')}_samples" for name in lists}
    return rows.rename(columns=numbers).to_csv(index=False)
