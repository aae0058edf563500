"""Many records as one table."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.record.checks import RecordError, plain
from harness.record.identity import fields_of
from harness.record.names import method_labels, problem_names
from harness.record.places import contents, entries, unlinked
from harness.record.schema import FIELDS, NAMES
from harness.record.sources import SOURCE, superseded
from harness.record.throttling import MOST, throttling

if TYPE_CHECKING:
    import pandas

_COLUMNS = (*NAMES, "path")
# What a record of an older schema, which lacks the field, was measured with.
OLDER = {"processes": 1, "wrt": "parameters", "per_sample": False, "k": 10, "damping": 0.01}
NUMBERS = ("eigenvalues", "trace", "spectrum")  # quantities of a few numbers, whose size measures nothing
_VALUES = itemgetter(*_COLUMNS)


def load(*paths: str | Path) -> pandas.DataFrame:
    """One row for each record, from run folders (every record.json below them) and baseline files (`*.jsonl`).

    Columns: NAMES as stored, then DERIVED. Times in seconds, memory in bytes. Links to folders are followed, so that
    `path` still leads to a record when LAST is another run. A record that is given again counts once. One that `resume`
    has replaced, since the source of its method or problem has changed, does not count.
    `frame.attrs["asked"]` are the paths, without such links; what is no record, and paths without one, are named in
    `frame.attrs["skipped"]`; `frame.attrs["copies"]` holds the `path` of each record that was given again, and
    `frame.attrs["superseded"]` that of each replaced one. Raises RecordError where a path does not exist or no record
    is there.
    """
    import pandas

    places = [unlinked(Path(path)) for path in paths]
    rows: list[tuple[Any, ...]] = []
    known: set[Hashable] = set()
    copies: list[str] = []
    skipped: list[str] = []
    with _garbage_kept():
        for entry in entries(places):
            if isinstance(entry, RecordError):
                skipped.append(str(entry))
            elif (content := contents(entry)) in known:
                copies.append(entry["path"])
            else:
                known.add(content)
                rows.append(_VALUES(entry))
    if not known:
        reasons = "; ".join(skipped[:3])
        raise RecordError(f"no record was found: {reasons}; a run folder holds <cell>/record.json files")
    del known  # it takes as much memory as the rows
    columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    del rows
    replaced = superseded(
        dict(zip(SOURCE, values, strict=True)) for values in zip(*(columns[name] for name in SOURCE), strict=True)
    )
    frame = pandas.DataFrame(columns)
    if replaced:
        frame = frame[~frame["path"].isin(replaced)].reset_index(drop=True)
    for field in FIELDS:
        if field.type == "int":
            frame[field.name] = pandas.to_numeric(frame[field.name])
        elif field.type == "float":
            frame[field.name] = frame[field.name].astype("float")
    for name, value in OLDER.items():
        frame[name] = frame[name].fillna(value)
    frame = _derive(frame).copy()  # in one piece: pandas warns where columns are added to a frame in a hundred pieces
    frame.attrs.update(asked=list(map(str, places)), skipped=skipped, copies=copies, superseded=sorted(replaced))
    return frame


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """In which Python looks for no garbage: records make none, and looking through 100,000 takes seconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def left_out(frame: pandas.DataFrame) -> list[str]:
    """A sentence on each kind of records that do not count, with their number, for a reader of the frame."""
    kinds = {
        "copies": "records that are copies of others were left out",
        "superseded": "records of an older source of method or problem were left out",
    }
    return [f"{sentence}: {len(frame.attrs[kind])}" for kind, sentence in kinds.items() if frame.attrs.get(kind)]


def remarks(frame: pandas.DataFrame) -> list[str]:
    """What to print of a frame beside its table: files that were skipped, what was left out, and nodes that differ."""
    return [*(f"skipped {plain(text)}" for text in frame.attrs["skipped"]), *left_out(frame), *_on_several_nodes(frame)]


def _on_several_nodes(frame: pandas.DataFrame) -> list[str]:
    """Sentences where times that are shown together were taken on several nodes of a cluster: of a problem, a curve."""
    timed = frame[frame["node"].notna() & frame["median_s"].notna()]
    if timed["node"].nunique() < 2:
        return []
    known: set[str] = set()
    found = []
    for columns, sentence in (
        (fields_of("problem", "setting"), "measured on several nodes, so that their times do not compare"),
        (
            ("problem_target", *fields_of("setting")),
            "sizes measured on several nodes, so that growth with P compares the nodes too",
        ),
    ):
        apart = timed.groupby(list(columns), dropna=False)["node"].transform("nunique") > 1
        names = sorted({plain(name) for name in timed.loc[apart, "problem"]} - known)
        if names:
            known |= {*names}
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"{sentence}: {', '.join(names[:3])}{more}")
    return found


def _derive(frame: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    def over(column: str, statistic: Callable[[Sequence[float]], float]) -> pandas.Series:
        known = ([float(value) for value in values or () if value is not None] for values in frame[column])
        return pandas.Series([statistic(values) if values else math.nan for values in known], frame.index, "float")

    sampled_s = over("times_s", median)
    frame["median_s"] = sampled_s.fillna(frame["first_s"])
    frame["fastest_s"] = over("times_s", min)
    frame["gpu_busy"] = frame["gpu_busy_s"] / sampled_s
    frame["gradients"] = frame["median_s"] / over("gradient_s", median)
    output_bytes = frame["output_bytes"].where(~frame["quantity"].isin(NUMBERS))
    frame["tensor_peak_outputs"] = frame["tensor_peak_bytes"] / output_bytes
    frame["process_peak_outputs"] = frame["process_peak_bytes"] / output_bytes
    of_matrix = frame["samples"].where((frame["quantity"] == "hessian") & frame["per_sample"].eq(False))
    gemms = of_matrix * frame["params"].astype("float") ** 2 / frame["gemm_flops_per_s"]
    frame["gemm_equivalents"] = frame["median_s"] / gemms
    frame["write_multiples"] = frame["median_s"] / (output_bytes / frame["write_bytes_per_s"])
    on_cpu = frame["device"] == "cpu"
    alone = frame["processes"] == 1  # one of several may wait for the others in the method's own collectives
    starved = on_cpu & alone & (frame["sampling_cpu_s"] < 0.9 * frame["sampling_wall_s"])
    waiting = (frame["sampling_waiting_s"] / frame["sampling_wall_s"]).fillna(frame["cpu_pressure"])
    power, heat = (frame[f"{cause}_throttled_s"] / frame["gpu_watched_s"] for cause in ("power", "heat"))
    found = list(map(throttling, frame["throttle_reasons"], power, heat))
    frame["throttled"] = pandas.Series([share for share, _ in found], frame.index, "float")
    frame["throttled_by"] = pandas.Series([by for _, by in found], frame.index, "object")
    shared = frame["co_scheduled"].eq(True)
    frame["contended"] = starved | (waiting > 0.1) | (frame["throttled"] > MOST) | shared
    frame["problem_name"] = problem_names(frame)
    frame["label"] = method_labels(frame)
    return frame
