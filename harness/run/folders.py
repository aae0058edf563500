"""The folders of a run, one for each cell; their locks; and a link to the latest run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import record
from harness.record import StorageError, storing
from harness.run import written

LOCK = ".lock"  # an empty file in the folder of a cell, which is locked while the cell is resumed
PROBE = b" " * 2**22  # larger than the files that a pass writes
MARK = ".running"  # an empty file in a run folder, which is locked while a new run writes there
POLL_S = 0.5  # how often is looked whether another harness has finished


def claim(output: Path, key: str) -> Path:
    """Make a new folder for a cell, which no other harness that writes here has.

    It is called `key`, or `<key>.2` and so on where that exists already. Raises StorageError.
    """
    return next(folder for folder in _names(output, key) if make(folder))


def make(folder: Path) -> bool:
    """Make a folder; False where it is there already. Raises StorageError."""
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            return False
    return True


def folders_of(output: Path, key: str) -> Iterator[Path]:
    """The folders that were claimed for a cell, in their order."""
    return filter(Path.is_dir, itertools.takewhile(os.path.lexists, _names(output, key)))


def lockable(output: Path, key: str) -> tuple[Path, bool]:
    """The first folder of a cell that can be locked, and whether it was made now. Raises StorageError.

    A method can have damaged the folders before it.
    """
    for folder in _names(output, key):
        if make(folder):
            return folder, True
        with contextlib.suppress(StorageError), _open(folder / LOCK):
            break
    return folder, False


def require_room(folder: Path) -> None:
    """Raise StorageError, with the folder as its filename, where no file of a pass can be written there."""
    with storing(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(PROBE)


def require_intact(folder: Path, job: Mapping[str, Any]) -> None:
    """Raise StorageError, with the folder as its filename, where a pass has damaged the folder of its cell."""
    with storing(folder):
        if folder.is_symlink() or _job(folder) != json.loads(json.dumps(job)):
            raise OSError(errno.EINVAL, "it was replaced, or job.json was changed")
        if (folder / "record.json").is_dir():
            raise OSError(errno.EISDIR, "record.json is a folder")
        tempfile.TemporaryFile(dir=folder).close()


def _job(folder: Path) -> Any:
    """What is in job.json; None where that is no JSON."""
    try:
        return json.loads(record.content(folder / "job.json", os.O_NOFOLLOW))
    except (ValueError, RecursionError):
        return None


def replacement(folder: Path, key: str, job: Mapping[str, Any]) -> Path:
    """A new folder, with job.json, for a cell whose own was damaged. Raises StorageError where it cannot be written."""
    new = claim(folder.parent, key)
    try:
        require_room(new)
        record.write_json(job, new / "job.json")
    except StorageError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return new


def _names(output: Path, key: str) -> Iterator[Path]:
    yield output / key
    for number in itertools.count(2):
        yield output / f"{key}.{number}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock the folder of a cell for this block; False where another process has locked it."""
    with _open(folder / LOCK) as file:
        yield _has_lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def beside_others(output: Path, resume: bool) -> Iterator[None]:
    """Write into a run folder for this block. New runs may do so at once, and each measures every cell.

    A run that resumes first waits for the end of the new ones, since these would measure its cells again.
    """
    with _open(output / MARK) as file:
        if resume:
            _wait_for_new_runs(file, output)
        else:
            _has_lock(file, fcntl.LOCK_SH)
        yield


def _wait_for_new_runs(file: int, output: Path) -> None:
    is_over = functools.partial(_has_lock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not is_over():
        print(f"harness: waiting for the harness that still runs in {output}", file=sys.stderr, flush=True)
        while not is_over():
            time.sleep(POLL_S)
    _has_lock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    """The descriptor of a file that may be locked: NFS wants it open for writing. No other process inherits it.

    What a method has put there instead of a regular file, such as a link, is removed.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            written.remove(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_lock(file: int, kind: int) -> bool:
    """Whether the lock is there for us. The kernel releases it when the file is closed, or this process ends.

    On a file system without locks it is there for everyone.
    """
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def point_latest(output: Path) -> None:
    """Make `LAST` beside the run folder a link to it. Where there is no room or the system has no links, leave it."""
    link = output.parent / "LAST"
    temporary = output.parent / f".LAST.{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.symlink_to(output.name)
        temporary.replace(link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
