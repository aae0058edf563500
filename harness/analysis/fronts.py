"""Time against memory: what no other method beats in both, and what a method trades by its chunk size."""

from __future__ import annotations

import json
import math

from pandas import DataFrame

from harness.analysis.intervals import interval

WHOLE = "all"  # the chunk size null


def front(points: DataFrame) -> DataFrame:
    """The points that no other of these is below and left of, by ascending x."""
    ordered = points.sort_values(["x", "y"])
    return ordered[ordered["y"] < ordered["y"].cummin().shift(fill_value=math.inf)]


def points(rows: DataFrame) -> DataFrame:
    """A point for each label and P: medians, the interval of y, and whether each process is right and ranked (`whole`).

    `chain` names what differs only in `chunk`, the chunk size, where that takes several values at one P; else null.
    """
    options = [json.loads(text) if isinstance(text, str) else {} for text in rows["method_options"]]
    chunks = [option.pop("chunk_size", "") for option in options]
    methods = zip(*(rows[name].map(str) for name in ("method", "target")), options, strict=True)
    chains = [json.dumps(method, sort_keys=True) for method in methods]
    rows = rows.assign(chain=chains, chunk=[WHOLE if chunk is None else str(chunk) for chunk in chunks])
    right = rows["status"].eq("ok") & rows["ranked"]
    rows["whole"] = right.groupby([rows["label"], rows["params"]]).transform("all")
    drawn = rows[rows["drawn"]]
    found = [
        group.iloc[0].to_dict()
        | {
            "x": group["x"].median(),
            "y": group["y"].median(),
            "contended": bool(group["contended"].any()),
            **dict(zip(("low", "high"), interval(group["y"]), strict=True)),
            "status": next((status for status in group["status"] if status != "ok"), "ok"),
        }
        for _, group in drawn.groupby(["label", "params"])
    ]
    points = DataFrame(found, columns=[*drawn.columns, "low", "high"])
    several = points.groupby(["chain", "params"])["chunk"].transform("nunique") > 1
    points = points.assign(chain=points["chain"].where(several)).astype({"whole": bool, "contended": bool})
    return points.copy()  # in one piece, as in `harness.record.frame`
