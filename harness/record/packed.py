"""A run folder's records in one file beside theirs, which is read in their stead: 100,000 files take longer to open.

The files hold: a record is taken from the pack only while its file has the size and the time of change that it was
packed with. A pack can be deleted at any time. It is made once a folder has FEWEST records or more that are not in it.

It is a zip file with a JSON text for each column: the values, and of texts each different one once. So every value
comes back as its file holds it, an integer among floating-point numbers too.
"""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.record.checks import are_records
from harness.record.files import StorageError, opened, write_bytes
from harness.record.schema import FIELDS, NAMES, SCHEMA_VERSION

NAME = "packed_records.zip"
VERSION = 1
FEWEST = 1000  # records that are read from their files in a fifth of a second
SETTLED_NS = 2 * 10**9  # a file that was changed since may be changed once more without a later time
SHARE = 4  # at most, bytes of the unpacked columns over those of the files
_TEXTS = {field.name for field in FIELDS if field.type == "str"}
_DAMAGED = (
    *(ValueError, TypeError, LookupError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)

Row = tuple[Any, ...]  # of a record: its values, in the order of NAMES


class File(NamedTuple):
    """A file in which a record was found."""

    name: str  # within the folder that was searched
    path: str
    itself: str  # its path without links
    identity: tuple[int, int] | None  # bytes, and nanoseconds of its last change; None where it cannot be looked at


class Pack:
    """The packed records of a folder, as far as its files are still those that were packed."""

    def __init__(self, folder: Path, files: Sequence[File]) -> None:
        """Read the pack of a folder that has these files; none where there is none, or it is no pack of this schema."""
        self._path = folder / NAME
        self._rows: dict[str, tuple[tuple[int, int], Row]] = {}
        self._before_ns = time.time_ns() - SETTLED_NS
        self._files = files
        self._added = 0
        try:
            with opened(self._path) as stream, zipfile.ZipFile(stream) as archive:
                self._rows = _rows(archive, SHARE * sum(file.identity[0] for file in files if file.identity))
        except (OSError, *_DAMAGED):
            return

    def record(self, file: File) -> dict[str, Any] | None:
        """The record of a file, as `checks.checked` returns it; None where it is not packed or the file has changed."""
        identity, row = self._rows.get(file.name, (None, ()))
        return dict(zip(NAMES, row, strict=True)) if row and identity == file.identity else None

    def add(self, file: File, record: dict[str, Any]) -> None:
        """Take over a record that was read from its file, unless that was changed just now."""
        if file.identity is not None and file.identity[1] < self._before_ns:
            self._rows[file.name] = file.identity, tuple(record[name] for name in NAMES)
            self._added += 1

    def write(self) -> None:
        """Write the pack whole where enough was added; where the folder cannot be written to, it stays without."""
        if self._added < FEWEST:
            return
        packed = [(file.name, *self._rows[file.name]) for file in self._files if file.name in self._rows]
        names, identities, rows = zip(*packed, strict=True)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            about = {"version": VERSION, "schema": SCHEMA_VERSION, "names": names, "identities": identities}
            archive.writestr("files.json", json.dumps(about))
            for name, values in zip(NAMES, zip(*rows, strict=True), strict=True):
                archive.writestr(f"{name}.json", json.dumps(_indexed(values) if name in _TEXTS else values))
        try:
            write_bytes(content.getvalue(), self._path)
        except StorageError:
            return


def _rows(archive: zipfile.ZipFile, most: int) -> dict[str, tuple[tuple[int, int], Row]]:
    """The identity and the row of each file; raises one of _DAMAGED where this is no pack, or larger than `most`."""
    if sum(member.file_size for member in archive.infolist()) > most:
        raise ValueError("it has more than its records hold")
    about = json.loads(archive.read("files.json"))
    if (about["version"], about["schema"]) != (VERSION, SCHEMA_VERSION):
        raise ValueError("it is of another version")
    columns = {}
    for name in NAMES:
        held = json.loads(archive.read(f"{name}.json"))
        columns[name] = [held["texts"][place] for place in held["places"]] if name in _TEXTS else held
    if not are_records(columns):
        raise ValueError("it holds what is no record")
    identities = [(size, time_ns) for size, time_ns in about["identities"]]
    rows = zip(*columns.values(), strict=True)
    return dict(zip(about["names"], zip(identities, rows, strict=True), strict=True))


def _indexed(values: Sequence[str | None]) -> dict[str, Any]:
    """Each different text once, and for each value its place among them."""
    places = {text: place for place, text in enumerate(dict.fromkeys(values))}
    return {"texts": list(places), "places": [places[text] for text in values]}
