"""The folders of a run: one for each cell, and a link to the latest run."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from harness.record import storing


def claim(output: Path, key: str) -> Path:
    """Make a new folder for a cell, which no other harness that writes here has.

    It is called `key`, or `<key>.2` and so on where that exists already. Raises StorageError.
    """
    with storing(output):
        output.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = output / (key if number == 1 else f"{key}.{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError("unreachable")


def point_latest(output: Path) -> None:
    """Make `LAST` beside the run folder a link to it. Where there is no room or the system has no links, leave it."""
    link = output.parent / "LAST"
    temporary = output.parent / f".LAST.{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.symlink_to(output.name)
        temporary.replace(link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
