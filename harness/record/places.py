"""Records found in run folders and baseline files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from harness.record.checks import RecordError, checked
from harness.record.files import LARGEST, opened, refuse_utf_16, whole
from harness.record.packed import File, Pack
from harness.record.schema import FIELDS, NAMES
from harness.record.sources import superseded

_LISTS = tuple(field.name for field in FIELDS if field.type.startswith("list"))
_LISTED = itemgetter(*_LISTS)
_SINGLE = itemgetter(*(name for name in NAMES if name not in (*_LISTS, "traceback")))


def records(*paths: str | Path) -> list[dict[str, Any]]:
    """The records of run folders, baseline files and files record.json, equal ones (see `contents`) once.

    Records of a run folder that were replaced (see `superseded`) are left out. Raises RecordError where a path does not
    exist or holds no record, or something in it is none.
    """
    found: dict[Hashable, dict[str, Any]] = {}
    for entry in entries([unlinked(Path(path)) for path in paths]):
        if isinstance(entry, RecordError):
            raise entry
        found.setdefault(contents(entry), entry)
    replaced = superseded(found.values())
    return [{name: entry[name] for name in NAMES} for entry in found.values() if entry["path"] not in replaced]


def contents(entry: Mapping[str, Any]) -> Hashable:
    """What is equal for two copies of one record: all fields but `traceback`, which a baseline file leaves out.

    No record of a cell that could not be composed counts as a copy: it lacks the options in which such cells differ.
    """
    if entry["status"] == "error" and entry["started"] is None:
        return object()
    return _SINGLE(entry), *(None if values is None else tuple(values) for values in _LISTED(entry))


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
    """Each record of the places, with its `path`, and in place of what is none an error that says why.

    A folder's records come from its pack where they have one that still holds (`harness.record.packed`).
    """
    known: set[str] = set()
    for place in places:
        files = _files(place)
        if not files:
            yield RecordError(f"{place} holds no record")
        new = [file for file in files if file.itself not in known]
        known.update(file.itself for file in new)
        if place.is_dir():
            yield from _of_folder(place, new)
        else:
            for file in new:
                yield from _of_file(file.path)


def _files(place: Path) -> list[File]:
    """The files of records of a place, and the folders in it that cannot be listed, in order."""
    if not place.is_dir():
        return [File(place.name, str(place), os.path.realpath(place), None)]
    start, itself = "" if place == Path() else f"{place}{os.sep}", os.path.realpath(place)
    found: list[File] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(f"{start}{folder}" or os.curdir) as inside:
                listed = [entry for entry in inside if entry.name == "record.json" or entry.is_dir()]
                folders += [f"{folder}{entry.name}{os.sep}" for entry in listed if entry.is_dir(follow_symlinks=False)]
        except OSError:
            path = f"{start}{folder}".rstrip(os.sep)
            found.append(File(folder.rstrip(os.sep), path, os.path.realpath(path), None))
            continue
        for entry in listed:
            if entry.name == "record.json":
                name = f"{folder}record.json"
                path = f"{start}{name}"
                real = os.path.realpath(path) if entry.is_symlink() else f"{itself}{os.sep}{name}"
                found.append(File(name, path, real, _identity(entry)))
    return sorted(found, key=lambda file: file.name.replace(os.sep, "\0"))  # folder by folder


def _identity(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Bytes, and nanoseconds of the last change, of a file; None where it leads nowhere."""
    try:
        seen = entry.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns


def _of_folder(folder: Path, files: Sequence[File]) -> Iterator[dict[str, Any] | RecordError]:
    pack = Pack(folder, files)
    for file in files:
        packed = pack.record(file)
        if packed is not None:
            packed["path"] = file.path
            yield packed
            continue
        for entry in _of_file(file.path):
            if not isinstance(entry, RecordError):
                pack.add(file, entry)
            yield entry
    pack.write()


def _of_file(file: str) -> Iterator[dict[str, Any] | RecordError]:
    held = False
    try:
        for found, where in _lines(file) if file.endswith(".jsonl") else [(whole(file), file)]:
            held = True
            try:
                entry = checked(found, where)
                entry["path"] = where
                yield entry
            except RecordError as error:
                yield error
    except RecordError as error:
        yield error
        return
    if not held:
        yield RecordError(f"{file} holds no record")


def _lines(file: str) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, and where each is; raises RecordError where it cannot be read."""
    try:
        with opened(file) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LARGEST + 1), b""), 1):
                if number == 1:
                    refuse_utf_16(line)
                if len(line) > LARGEST:
                    raise RecordError(f"{file}:{number} has more than {LARGEST} bytes; the rest is not read")
                if line.strip():
                    yield line, f"{file}:{number}"
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error
