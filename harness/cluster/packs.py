"""Packs of benchmark cells: which cells share a job, the file of a pack, and the journal of the job that runs it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from harness import record
from harness.cluster.options import Needs, Slurm
from harness.compare.baseline import Measured
from harness.job import Job

# Fields of a job in which cells differ that are compared with each other: methods, rounds, baseline and candidate.
COMPARED = ("method", "target", "method_options", "round", "interpreter", "code", "passes")


@dataclass(frozen=True)
class Pack:
    """Benchmark cells for one job, in the order in which they run."""

    cells: Sequence[Measured]
    attempt: int = 1  # of the first cell: one more than the jobs that have ended while it ran
    failed_starts: int = 0  # jobs of these cells that have ended before one began
    node: str | None = None  # where other cells were measured with which these are compared; null for any


def identity(cell: Measured) -> str:
    """What tells a cell of a run from all others."""
    return f"{cell.folder}/{cell.job.key}"


def packed(cells: Iterable[Measured], slurm: Slurm) -> dict[Needs, list[Pack]]:
    """The cells in packs, by what a job must have to run them.

    Cells that are compared with each other are in one pack, in the order given, so that interleaved rounds stay so.
    A pack takes further cells until it has `slurm.pack`.
    """
    contests: dict[tuple[Needs, str], list[tuple[int, Measured]]] = {}
    for place, cell in enumerate(cells):
        contest = slurm.needs(cell.job), cell.job.text_without(COMPARED)
        contests.setdefault(contest, []).append((place, cell))
    filled: dict[Needs, list[list[tuple[int, Measured]]]] = {}
    for (needs, _), own in contests.items():
        packs = filled.setdefault(needs, [[]])
        if packs[-1] and len(packs[-1]) + len(own) > slurm.pack:
            packs.append([])
        packs[-1].extend(own)
    return {
        needs: [Pack([cell for _, cell in sorted(pack, key=itemgetter(0))]) for pack in packs]
        for needs, packs in filled.items()
    }


def write(pack: Pack, file: Path) -> None:
    """Write a pack; raises StorageError."""
    cells = [{"name": cell.name, "folder": cell.folder, "job": asdict(cell.job)} for cell in pack.cells]
    record.write_json(vars(pack) | {"cells": cells}, file)


def read(file: Path) -> Pack:
    """The pack in a file that `write` has written; raises RecordError where it is none."""
    try:
        held = json.loads(record.content(file))
        cells = [Measured(cell["name"], Job.from_dict(cell["job"]), cell["folder"]) for cell in held["cells"]]
        return Pack(**held | {"cells": cells})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise record.RecordError(
            f"{file} is no pack of cells ({error}); delete it, and its cells are submitted again"
        ) from error


def attempt(pack: Pack, journal: Journal, at: int) -> int:
    """The number of the next attempt at a cell of a pack: one more than the jobs that have ended while it ran."""
    return journal.begun.count(at) + (pack.attempt if at == 0 else 1)


class Journal:
    """What the job of a pack has done: a line as each cell begins, and one as it is recorded.

    Only the job writes it. A line is on the disk at once, so that others on the same file system can follow it.
    """

    def __init__(self, pack: Path) -> None:
        self._file = pack.with_suffix(".cells")
        self.run = pack.parents[2]
        self.begun: list[int] = []  # places of cells in their pack
        self.records: dict[int, Path] = {}  # the file of the record of each finished cell
        self._read = 0  # bytes

    def follow(self) -> None:
        """Read what has been added."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                added = stream.read()
        except FileNotFoundError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # the end of a line that was being written when a job was killed
                self._take(json.loads(line))

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "record" in entry:
            self.records[entry["cell"]] = self.run / entry["record"]
        else:
            self.begun.append(entry["cell"])

    @property
    def cut_off(self) -> int | None:
        """The cell that has begun and is not recorded, if there is one: what ran when the job ended."""
        if self.begun and self.begun[-1] not in self.records:
            return self.begun[-1]
        return None

    def begin(self, cell: int) -> None:
        """Note that a cell begins."""
        self._append({"cell": cell})

    def end(self, cell: int, path: Path) -> None:
        """Note that a cell is recorded in a file."""
        self._append({"cell": cell, "record": str(path.relative_to(self.run))})

    def _append(self, entry: Mapping[str, Any]) -> None:
        with record.storing(self._file), self._file.open("ab") as stream:
            is_torn = stream.tell() > self._read
            stream.write((b"\n" if is_torn else b"") + json.dumps(entry).encode() + b"\n")
            self._read = stream.tell()
            stream.flush()
            os.fsync(stream.fileno())
        self._take(entry)
