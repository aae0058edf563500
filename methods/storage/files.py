"""The two files of a stored matrix: its rows in NumPy's format, and a JSON file that describes them.

`hessian.npy` holds the matrix (P, P) row by row. `numpy.load("hessian.npy", mmap_mode="r")` opens it without this
package. `hessian.npy.json` holds the fields of `Description`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor, nn

from methods.ravel import ravel

VERSION = 1
DTYPES = "float32", "float64"
NO_ROOM = errno.ENOSPC, errno.EDQUOT

Parameters = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True)
class Description:
    """What a matrix is, and how much of it is written. All but `rows_done` must be the same when a run is resumed."""

    shape: list[int]  # P, P
    dtype: str
    parameters: list[dict[str, Any]]  # name and shape of each, in the order of rows and columns
    values_sha256: str  # of the parameters' values (P,)
    method: str
    options: dict[str, str]
    rows_done: int = 0  # the first so many rows are written and flushed to the disk
    version: int = VERSION

    def differences(self, other: Description) -> str:
        """The fields in which another description differs, apart from `rows_done`; empty where none does."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        listed = [
            f"{name} {_shortened(theirs[name])} instead of {_shortened(ours[name])}"
            for name in ours
            if name != "rows_done" and ours[name] != theirs[name]
        ]
        return "; ".join(listed)


def describe(parameters: Parameters, method: str, options: Mapping[str, Any]) -> tuple[Description, Tensor]:
    """The description of a matrix over parameters, none of it written, and the values `theta` (P,).

    Raises ValueError for parameters that are neither a module nor tensors by name, or of another dtype than DTYPES.
    """
    theta, unravel = ravel(parameters)
    named = unravel(theta)
    if not isinstance(named, dict) or not all(isinstance(part, Tensor) for part in named.values()):
        raise ValueError(f"parameters must be a module, or tensors by name; found {type(parameters).__name__}")
    dtype = str(theta.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"parameters are {dtype}; a stored matrix is {' or '.join(DTYPES)}: convert the network")
    size = theta.numel()
    description = Description(
        shape=[size, size],
        dtype=dtype,
        parameters=[{"name": name, "shape": list(part.shape)} for name, part in named.items()],
        values_sha256=hashlib.sha256(theta.cpu().numpy().tobytes()).hexdigest(),
        method=method,
        options={name: _named(value) for name, value in options.items()},
    )
    return description, theta


def name_of(function: Any) -> str:
    """The module and the name of a function, or of the class of another callable."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _named(value: Any) -> str:
    """An option as text that is the same in every process."""
    return name_of(value) if callable(value) else repr(value)


def json_path(path: Path) -> Path:
    """Where the description of a matrix is."""
    return path.with_name(f"{path.name}.json")


def read_description(path: Path) -> Description:
    """The description of the matrix at `path`.

    Raises FileNotFoundError where it has none, and ValueError where that cannot be understood.
    """
    place = json_path(path)
    try:
        description = Description(**json.loads(place.read_text(encoding="utf-8")))
        _check(description)
    except FileNotFoundError:
        raise FileNotFoundError(f"{place} is not there; it describes {path.name} and belongs beside it") from None
    except (ValueError, TypeError, KeyError, IsADirectoryError) as error:
        raise ValueError(
            f"{place} does not describe a matrix ({error}): restore it from a copy, or delete both files"
        ) from error
    return description


def write_description(path: Path, description: Description) -> None:
    """Replace the description of the matrix at `path`. It is on the disk, old or new, at any time."""
    place = json_path(path)
    temporary = place.with_name(f".{place.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(dataclasses.asdict(description), stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Lock the matrix at `path` for this block; an empty file stands for one that is not there yet.

    Raises FileExistsError where another process has locked it. A file system without locks locks nothing.
    """
    with storing(path, "nothing is written"):
        stream = path.open("ab")
    with stream:
        if not _has_lock(stream):
            raise FileExistsError(f"another process writes {path} now: wait for it, or name another file")
        try:
            yield
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def _has_lock(stream: BufferedWriter) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def create(path: Path, description: Description) -> None:
    """Write a description, and a matrix of zeros whose space on the disk is reserved.

    Raises OSError where there is no room; both are then removed again.
    """
    header = {"descr": numpy.dtype(description.dtype).str, "fortran_order": False, "shape": tuple(description.shape)}
    state = f"nothing is written, and the matrix needs {_data_bytes(description) / 1e9:.3g} GB"
    with storing(path, state), path.open("wb") as stream:
        try:
            write_description(path, description)
            numpy.lib.format.write_array_header_1_0(stream, header)
            stream.flush()
            _reserve(stream, stream.tell() + _data_bytes(description))
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(0)
            json_path(path).unlink(missing_ok=True)
            raise


def data_offset(path: Path, description: Description) -> int:
    """The place of the first entry in the file, in bytes.

    Raises ValueError for a file that is not the matrix described, FileNotFoundError where there is none.
    """
    if not path.exists() or not path.stat().st_size:
        raise FileNotFoundError(f"{path} is not there, but {json_path(path).name}, which describes it, is")
    offset = _header_bytes(path, description)
    held, needed = path.stat().st_size, offset + _data_bytes(description)
    if held != needed:
        raise ValueError(
            f"{path} has {held:,} bytes instead of {needed:,}: it is not as it was written; compute it again"
        )
    return offset


def require_own(path: Path, description: Description) -> None:
    """Raise FileExistsError for an array that is not the one described. That one may still be short or empty."""
    try:
        if path.stat().st_size:
            _header_bytes(path, description)
    except ValueError as error:
        raise FileExistsError(f"{error}; remove it and {json_path(path).name}, or name another file") from error


def _header_bytes(path: Path, description: Description) -> int:
    """The bytes before the first entry. Raises ValueError for another array than the one described."""
    with path.open("rb") as stream:
        try:
            numpy.lib.format.read_magic(stream)
            shape, by_columns, dtype = numpy.lib.format.read_array_header_1_0(stream)
        except ValueError as error:
            raise ValueError(f"{path} is no file in NumPy's format, version 1 ({error})") from error
        offset = stream.tell()
    found = f"{list(shape)} {dtype}{' by columns' if by_columns else ''}"
    described = f"{description.shape} {description.dtype}"
    if found != described:
        raise ValueError(f"{path} holds {found}, but its description says {described}: another file took its place")
    return offset


@contextlib.contextmanager
def storing(path: Path, state: str) -> Iterator[None]:
    """Raise what fails in writing as OSError that says what is written, and what to do."""
    try:
        yield
    except OSError as error:
        advice = "free space there" if error.errno in NO_ROOM else "name another place"
        raise OSError(error.errno, f"{error.strerror}; {state}: {advice}", str(path)) from error


def _reserve(stream: BufferedWriter, size: int) -> None:
    """Give a file its size, and reserve the space for it where the system can (Linux)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
    else:
        stream.truncate(size)


def _check(description: Description) -> None:
    """Raise ValueError or TypeError for a field that cannot be right."""
    if description.version != VERSION:
        raise ValueError(f"its version is {description.version}, and this code reads version {VERSION}")
    rows, columns = description.shape
    if rows != columns or description.dtype not in DTYPES or description.rows_done not in range(rows + 1):
        raise ValueError(
            f"shape={description.shape}, dtype={description.dtype}, rows_done={description.rows_done} are not possible"
        )
    if not isinstance(description.rows_done, int) or not isinstance(description.options, dict):
        raise ValueError(f"rows_done={description.rows_done} and options={description.options} are not possible")
    sizes = [math.prod(part["shape"]) for part in description.parameters]
    names = [part["name"] for part in description.parameters]
    if sum(sizes) != rows:
        raise ValueError(f"parameters {_shortened(names)} have {sum(sizes)} entries, and the matrix {rows} rows")


def _data_bytes(description: Description) -> int:
    rows, columns = description.shape
    return rows * columns * numpy.dtype(description.dtype).itemsize


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
