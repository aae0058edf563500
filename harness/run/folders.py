"""The folders of a run: one for each cell, and a link to the latest run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def claim(output: Path, key: str) -> Path:
    """Make a new folder for a cell, which no other harness that writes here has.

    It is called `key`, or `<key>.2` and so on where that exists already.
    """
    output.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = output / (key if number == 1 else f"{key}.{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def point_latest(output: Path) -> None:
    """Make `LAST` beside the run folder a link to it. Where the system has no links, leave it."""
    link = output.parent / "LAST"
    temporary = output.parent / f".LAST.{os.getpid()}"
    try:
        temporary.symlink_to(output.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
