"""Files of records: written whole or not at all, found in run folders and baseline files, read one by one."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from io import BufferedReader
from operator import itemgetter
from pathlib import Path
from typing import Any

from harness.record.checks import CHECKS, RecordError, checked
from harness.record.schema import FIELDS, LONGEST, NAMES, SCHEMA_VERSION
from harness.record.sources import superseded

SIDES = ("baseline", "candidate")  # folders of a run that was given a baseline
NOT_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the writer of a FIFO; Windows has none
LARGEST = 2**26  # bytes of a file, or a line, that is read: a record has some thousand
_LISTS = tuple(field.name for field in FIELDS if field.type.startswith("list"))
_SINGLE = itemgetter(*(name for name in NAMES if name not in (*_LISTS, "traceback")))


class StorageError(OSError):
    """A place (`filename`) cannot be written to, as on a full disk; its text is one line that says what to do."""

    def __str__(self) -> str:
        full = self.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free space there" if full else "make it writable, or name another place"
        return f"{self.filename} cannot be written: {self.strerror}; {advice}"


@contextlib.contextmanager
def storing(place: Path) -> Iterator[None]:
    """Raise StorageError, which names the place, for what fails in writing there."""
    try:
        yield
    except OSError as error:
        raise StorageError(error.errno, error.strerror or str(error), str(place)) from error


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write a record whole or not at all. A value that its field cannot have becomes null; a long text is cut.

    Raises RecordError for a field that the schema does not have, and StorageError where the file cannot be written.
    """
    unknown = sorted(set(record) - set(NAMES))
    if unknown:
        raise RecordError(f"a record was given the fields {unknown}, which harness.record.FIELDS does not have")
    complete = dict.fromkeys(NAMES) | storable(record) | {"schema_version": SCHEMA_VERSION}
    write_json(complete, path, durable=True)


def storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as `write` stores those of a record's fields; what is no field stays as it is."""
    of_fields = {
        field.name: _storable(values[field.name], is_allowed) for field, is_allowed in CHECKS if field.name in values
    }
    return {**values, **of_fields}


def _storable(value: Any, is_allowed: Callable[[Any], bool]) -> Any:
    """The value, a text up to LONGEST, or null where it is none that the field may have, such as NaN."""
    stored = value[:LONGEST] if isinstance(value, str) else value
    return stored if value is not None and is_allowed(stored) else None


def write_json(value: Mapping[str, Any], path: Path, durable: bool = False) -> None:
    """Write a JSON object, a line a key, as `write_bytes` does. Numbers that are not finite become null."""
    lines = (f"{json.dumps(key)}: {json.dumps(_finite(entry), allow_nan=False)}" for key, entry in value.items())
    write_bytes(("{\n" + ",\n".join(lines) + "\n}\n").encode(), path, durable)


def write_text(text: str, path: Path) -> None:
    """Write text in UTF-8 as `write_bytes` does; what is no Unicode becomes its escape."""
    write_bytes(text.encode("utf-8", errors="backslashreplace"), path)


def write_bytes(content: bytes, path: Path, durable: bool = False) -> None:
    """Write a file that appears whole or not at all: write, rename. Raises StorageError.

    With `durable`, the file and its folder are flushed: the file is then there, and whole, even after the machine has
    lost power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            temporary.replace(path)
            if durable:
                _flush_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk. Some file systems refuse that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return value


@contextlib.contextmanager
def opened(file: Path, flags: int = 0) -> Iterator[BufferedReader]:
    """A regular file, opened for reading, with further flags of open(2).

    Raises OSError for anything else, without waiting: a FIFO or a device might never end.
    """
    with open(file, "rb", opener=lambda path, mode: os.open(path, mode | NOT_WAITING | flags)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        yield stream


def content(file: Path, flags: int = 0) -> bytes:
    """The bytes of a regular file (see `opened`); raises OSError where they are more than LARGEST."""
    with opened(file, flags) as stream:
        held = stream.read(LARGEST + 1)
    if len(held) > LARGEST:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST} bytes")
    return held


def read(path: Path) -> dict[str, Any]:
    """Read one record; raises RecordError where the file is no record of this schema."""
    return checked(_whole(path), str(path))


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
    found: list[Path] = []
    folders = [str(place)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as inside:
                entries = list(inside)
            folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            found.append(Path(folder))
            continue
        found += [Path(entry.path) for entry in entries if entry.name == "record.json"]
    return sorted(found)


def _of_file(file: Path) -> Iterator[dict[str, Any] | RecordError]:
    held = False
    try:
        for found, where in _lines(file) if file.suffix == ".jsonl" else [(_whole(file), str(file))]:
            held = True
            try:
                yield checked(found, where) | {"path": where}
            except RecordError as error:
                yield error
    except RecordError as error:
        yield error
        return
    if not held:
        yield RecordError(f"{file} holds no record")


def _whole(file: Path) -> bytes:
    """The content of a file; raises RecordError where it cannot be read."""
    try:
        found = content(file)
        _refuse_utf_16(found)
        return found
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error


def _lines(file: Path) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, and where each is; raises RecordError where it cannot be read."""
    try:
        with opened(file) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LARGEST + 1), b""), 1):
                if number == 1:
                    _refuse_utf_16(line)
                if len(line) > LARGEST:
                    raise RecordError(f"{file}:{number} has more than {LARGEST} bytes; the rest is not read")
                if line.strip():
                    yield line, f"{file}:{number}"
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error


def _refuse_utf_16(content: bytes) -> None:
    """Raise OSError where the beginning of a file is in UTF-16, as some programs write what is printed."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise OSError(errno.EILSEQ, "it is encoded in UTF-16; convert it to UTF-8")
