"""The references, which all methods of a problem are compared with: files that no method may change."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.record import storing
from harness.record.files import opened

# Fields of a job on which the reference does not depend: it is the same for every method and round.
NOT_OF_REFERENCE = ("problem", "method", "target", "method_options", "mode", "processes", "round", "passes")

Fields = dict[str, Any]  # of a record


class References:
    """Each reference once, in a file of a temporary folder of its own, with the SHA-256 that it had at first."""

    def __init__(self) -> None:
        self._folders = contextlib.ExitStack()
        self._known: dict[str, Path | Fields] = {}  # their files, or why there is none
        self._sums: dict[Path, str | None] = {}

    def of(self, job: Job, compute: Callable[[Path], Fields]) -> Path | Fields:
        """The file of a job's reference, or the fields that say why there is none. Raises StorageError.

        `compute` writes the file in a process that imports no method. That the computation takes too long is found
        only once too. After another failure, such as a crash by chance, it is tried again. So it is where a method has
        changed the file.
        """
        key = job.text_without(NOT_OF_REFERENCE)
        known = self._known.get(key)
        if isinstance(known, Path) and not self.is_intact(known):
            print("harness: the file of a reference was changed or removed; it is computed again", file=sys.stderr)
            known = None
        if known is not None:
            return known
        path = self._new()
        seen = compute(path)
        if seen["status"] not in ("ok", "timeout"):
            return seen
        self._sums[path] = _sum(path)
        self._known[key] = path if seen["status"] == "ok" else seen
        return self._known[key]

    def _new(self) -> Path:
        """The path of a file in a new folder, which no method knows yet. Raises StorageError."""
        with storing(Path(tempfile.gettempdir())):
            folder = tempfile.TemporaryDirectory(prefix="harness-references-", ignore_cleanup_errors=True)
        return Path(self._folders.enter_context(folder), "reference.pt")

    def is_intact(self, path: Path) -> bool:
        """Whether the file of a reference still holds what it held at first."""
        return self._sums[path] == _sum(path)

    def close(self) -> None:
        """Remove all files."""
        self._folders.close()


def _sum(path: Path) -> str | None:
    """SHA-256 of a file; None where it cannot be read."""
    try:
        with opened(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
