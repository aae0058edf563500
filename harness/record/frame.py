"""Many records as one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.record.checks import RecordError
from harness.record.files import contents, entries, unlinked
from harness.record.names import method_labels, problem_names
from harness.record.schema import FIELDS, NAMES

if TYPE_CHECKING:
    import pandas


def load(*paths: str | Path) -> pandas.DataFrame:
    """One row for each record, from run folders (every record.json below them) and baseline files (`*.jsonl`).

    Columns: NAMES as stored, then DERIVED. Times in seconds, memory in bytes. Links to folders are followed, so that
    `path` still leads to a record when LAST is another run. A record that is given again counts once.
    `frame.attrs["asked"]` are the paths, without such links; what is no record, and paths without one, are named in
    `frame.attrs["skipped"]`; `frame.attrs["copies"]` holds the `path` of each record that was given again. Raises
    RecordError where a path does not exist or no record is there.
    """
    import pandas

    places = [unlinked(Path(path)) for path in paths]
    columns: dict[str, list[Any]] = {name: [] for name in (*NAMES, "path")}
    known: set[Hashable] = set()
    copies: list[str] = []
    skipped: list[str] = []
    for entry in entries(places):
        if isinstance(entry, RecordError):
            skipped.append(str(entry))
        elif (content := contents(entry)) in known:
            copies.append(entry["path"])
        else:
            known.add(content)
            for name, values in columns.items():
                values.append(entry[name])
    if not known:
        reasons = "; ".join(skipped[:3])
        raise RecordError(f"no record was found: {reasons}; a run folder holds <cell>/record.json files")
    del known  # it takes as much memory as the columns
    frame = pandas.DataFrame(columns)
    for field in FIELDS:
        if field.type == "int":
            frame[field.name] = pandas.to_numeric(frame[field.name])
        elif field.type == "float":
            frame[field.name] = frame[field.name].astype("float")
    frame = _derive(frame)
    frame.attrs.update(asked=list(map(str, places)), skipped=skipped, copies=copies)
    return frame


def copies_left_out(frame: pandas.DataFrame) -> list[str]:
    """A sentence on how many records were given again, for a reader of the frame; none where there were none."""
    copies = frame.attrs.get("copies")
    return [f"records that are copies of others were left out: {len(copies)}"] if copies else []


def _derive(frame: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    def over(column: str, statistic: Callable[[Iterable[float]], float]) -> pandas.Series:
        known = ([float(value) for value in values or () if value is not None] for values in frame[column])
        return pandas.Series([statistic(values) if values else math.nan for values in known], frame.index, "float")

    frame["median_s"] = over("times_s", median).fillna(frame["first_s"])
    frame["fastest_s"] = over("times_s", min)
    frame["gradients"] = frame["median_s"] / over("gradient_s", median)
    frame["tensor_peak_outputs"] = frame["tensor_peak_bytes"] / frame["output_bytes"]
    frame["process_peak_outputs"] = frame["process_peak_bytes"] / frame["output_bytes"]
    of_matrix = frame["samples"].where(frame["quantity"] == "hessian")
    gemms = of_matrix * frame["params"].astype("float") ** 2 / frame["gemm_flops_per_s"]
    frame["gemm_equivalents"] = frame["median_s"] / gemms
    frame["write_multiples"] = frame["median_s"] / (frame["output_bytes"] / frame["write_bytes_per_s"])
    on_cpu = frame["device"] == "cpu"
    starved = on_cpu & (frame["sampling_cpu_s"] < 0.9 * frame["sampling_wall_s"])
    waiting = (frame["sampling_waiting_s"] / frame["sampling_wall_s"]).fillna(frame["cpu_pressure"])
    frame["contended"] = starved | (waiting > 0.1)
    frame["problem_name"] = problem_names(frame)
    frame["label"] = method_labels(frame)
    return frame
