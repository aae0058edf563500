"""Files of records: written whole or not at all, found in run folders and baseline files, read one by one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from harness.record.checks import RecordError, checked
from harness.record.schema import FIELDS, NAMES, SCHEMA_VERSION

SIDES = ("baseline", "candidate")  # folders of a run that was given a baseline
_LISTS = tuple(field.name for field in FIELDS if field.type.startswith("list"))
_SINGLE = itemgetter(*(name for name in NAMES if name not in (*_LISTS, "traceback")))


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write a record whole or not at all.

    Raises RecordError for a field that the schema does not have.
    """
    unknown = sorted(set(record) - set(NAMES))
    if unknown:
        raise RecordError(f"a record was given the fields {unknown}, which harness.record.FIELDS does not have")
    complete = {name: record.get(name) for name in NAMES} | {"schema_version": SCHEMA_VERSION}
    write_json(complete, path, durable=True)


def write_json(value: Mapping[str, Any], path: Path, durable: bool = False) -> None:
    """Write a JSON object, a line a key, to a file that appears whole or not at all: write, rename.

    Numbers that are not finite become null. With `durable`, fsync comes between: the file is then there, and whole,
    even after the machine has lost power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        lines = (f"{json.dumps(key)}: {json.dumps(_finite(entry), allow_nan=False)}" for key, entry in value.items())
        stream.write("{\n" + ",\n".join(lines) + "\n}\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    temporary.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


def read(path: Path) -> dict[str, Any]:
    """Read one record; raises RecordError where the file is no record of this schema."""
    return checked(_content(path), str(path))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def records(*paths: str | Path) -> list[dict[str, Any]]:
    """The records of run folders, baseline files and files record.json, equal ones (see `contents`) once.

    Raises RecordError where a path does not exist or holds no record, or something in it is none.
    """
    found: dict[Hashable, dict[str, Any]] = {}
    for entry in entries([unlinked(Path(path)) for path in paths]):
        if isinstance(entry, RecordError):
            raise entry
        found.setdefault(contents(entry), {name: entry[name] for name in NAMES})
    return list(found.values())


def contents(entry: Mapping[str, Any]) -> Hashable:
    """What is equal for two copies of one record: all fields but `traceback`, which a baseline file leaves out."""
    return _SINGLE(entry), *(None if entry[name] is None else tuple(entry[name]) for name in _LISTS)


def unlinked(place: Path) -> Path:
    """The place with no link among its folders, relative where it was; raises RecordError where there is nothing."""
    try:
        there, folder = place.exists(), place.is_dir()
    except OSError as error:
        raise RecordError(f"{place} cannot be read: {error.strerror}") from error
    if not there:
        raise RecordError(f"{place} does not exist; name a run folder (results/runs/...) or a baseline file")
    resolved = place.resolve() if folder else place.parent.resolve() / place.name
    return resolved if place.is_absolute() else Path(os.path.relpath(resolved))


def entries(places: Sequence[Path]) -> Iterator[dict[str, Any] | RecordError]:
    """Each record of the places, with its `path`, and in place of what is none an error that says why."""
    known: set[str] = set()
    for place in places:
        files = _files(place)
        if not files:
            yield RecordError(f"{place} holds no record")
        for file in files:
            itself = os.path.realpath(file)
            if itself not in known:
                known.add(itself)
                yield from _of_file(file)


def _files(place: Path) -> list[Path]:
    """The files of records of a place, and the folders in it that cannot be listed."""
    if not place.is_dir():
        return [place]
    closed: list[OSError] = []
    walk = list(os.walk(place, onerror=closed.append))
    found = [Path(folder, "record.json") for folder, *inside in walk if any("record.json" in names for names in inside)]
    return sorted([*found, *(Path(error.filename) for error in closed)])


def _of_file(file: Path) -> Iterator[dict[str, Any] | RecordError]:
    found = False
    try:
        with file.open("rb") as stream:
            for where, text in _texts(file, stream):
                found = True
                yield _entry(text, where)
    except OSError as error:
        yield RecordError(f"{file} cannot be read: {error.strerror}")
        return
    if not found:
        yield RecordError(f"{file} holds no record")


def _texts(file: Path, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Each text of an open file that should be a record, and where it is."""
    if file.suffix == ".jsonl":
        return ((f"{file}:{number}", line) for number, line in enumerate(stream, 1) if line.strip())
    return iter([(str(file), stream.read())])


def _entry(text: bytes, where: str) -> dict[str, Any] | RecordError:
    try:
        return checked(text, where) | {"path": where}
    except RecordError as error:
        return error
