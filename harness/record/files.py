"""Files of records: written whole or not at all, and read one by one."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from harness.record.checks import CHECKS, RecordError, checked
from harness.record.schema import LONGEST, NAMES, SCHEMA_VERSION

SIDES = ("baseline", "candidate")  # folders of a run that was given a baseline
NOT_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the writer of a FIFO; Windows has none
LARGEST = 2**26  # bytes of a file, or a line, that is read: a record has some thousand


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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # processes of other machines may write here too
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
def opened(file: str | Path, flags: int = 0) -> Iterator[BufferedReader]:
    """A regular file, opened for reading, with further flags of open(2).

    Raises OSError for anything else, without waiting: a FIFO or a device might never end.
    """
    with open(file, "rb", opener=lambda path, mode: os.open(path, mode | NOT_WAITING | flags)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        yield stream


def content(file: str | Path, flags: int = 0) -> bytes:
    """The bytes of a regular file (see `opened`); raises OSError where they are more than LARGEST."""
    with opened(file, flags) as stream:
        size = min(os.fstat(stream.fileno()).st_size, LARGEST)
        held = stream.read(size + 1)  # asked for LARGEST, Python would make room for that first
        if len(held) > size:  # it grows, or is of a file system that knows no size
            held += stream.read(LARGEST + 1 - len(held))
    if len(held) > LARGEST:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST} bytes")
    return held


def read(path: Path) -> dict[str, Any]:
    """Read one record; raises RecordError where the file is no record of this schema."""
    return checked(whole(path), str(path))


def whole(file: str | Path) -> bytes:
    """The content of a file; raises RecordError where it cannot be read."""
    try:
        found = content(file)
        refuse_utf_16(found)
        return found
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error


def refuse_utf_16(content: bytes) -> None:
    """Raise OSError where the beginning of a file is in UTF-16, as some programs write what is printed."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise OSError(errno.EILSEQ, "it is encoded in UTF-16; convert it to UTF-8")
