"""The files of references, which all methods of a problem are compared with, so that no method may change one."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path

from harness.record import storing
from harness.record.files import opened


class ReferenceFiles:
    """Files in temporary folders, each with the SHA-256 that it had when it was kept."""

    def __init__(self) -> None:
        self._folders = contextlib.ExitStack()
        self._sums: dict[Path, str | None] = {}

    def new(self) -> Path:
        """The path of a file in a folder of its own, which no method knows yet. Raises StorageError."""
        with storing(Path(tempfile.gettempdir())):
            folder = tempfile.TemporaryDirectory(prefix="harness-references-", ignore_cleanup_errors=True)
        return Path(self._folders.enter_context(folder), "reference.pt")

    def keep(self, path: Path) -> None:
        """Remember what the file holds now."""
        self._sums[path] = _sum(path)

    def is_intact(self, path: Path) -> bool:
        """Whether a kept file still holds what it held."""
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
