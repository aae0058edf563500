"""Where a report came from, as report.json: the command that rebuilds it, its input, its code, its files' records."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pandas import DataFrame

from harness.record.commit import commit

PACKAGES = ("pandas", "matplotlib", "seaborn", "scipy")  # that decide what numbers and pictures look like


def provenance(
    frame: DataFrame, out: Path, written: Sequence[Path], parts: Mapping[str, DataFrame], options: Sequence[str] = ()
) -> dict[str, Any]:
    """What report.json holds of a frame of `harness.record.load` and the files written into `out`; the same each time.

    Every file is from all records but those whose stem is in `parts`, which are from these. Paths are relative
    where they were given so: the command works in the folder that it was first given in.
    """
    left_out = [*frame.attrs.get("copies", ()), *frame.attrs.get("superseded", ())]
    inputs = sorted({_file(path) for path in (*frame["path"], *left_out)})
    runs = frame.attrs.get("asked", inputs)
    files: dict[tuple[str, ...], list[str]] = {}
    for path in written:
        records = tuple(parts.get(path.stem, frame)["path"])
        files.setdefault(records, []).append(path.name)
    root = Path(__file__).parents[2]
    return {
        "command": shlex.join(["python", "-m", "harness.report", *runs, "--out", str(out), *options]),
        **commit(root, "harness"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "torch": sorted(frame["torch"].dropna().unique()),  # of the records
        "inputs": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in inputs},
        "skipped": list(frame.attrs.get("skipped", ())),
        "written": [{"files": names, "records": list(records)} for records, names in files.items()],
    }


def _file(path: str) -> str:
    """The file of a record's `path`: itself, or that before the line of a baseline file."""
    file, _, line = path.rpartition(":")
    return file if line.isdecimal() and file.endswith(".jsonl") else path
