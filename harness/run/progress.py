"""The progress of a sweep, on the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rich.progress
from rich.console import Console

from harness import record


class Progress:
    """One live line on a terminal: done/total, the running cell, time left. Elsewhere a line for each finished cell.

    A single cell has no progress.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._bar = rich.progress.Progress(
            rich.progress.MofNCompleteColumn(),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal or total < 2,
        )
        self._task = self._bar.add_task("", total=total)
        self._total, self._done, self._began = total, 0, time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """Show which cell runs now."""
        self._bar.update(self._task, description=name)

    def end(self, name: str, status: str) -> None:
        """Count a finished cell."""
        self._done += 1
        self._bar.advance(self._task)
        if self._total > 1 and not self._console.is_terminal:
            left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
            line = f"{self._done}/{self._total} {name}: {status}, about {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def end_recorded(self, name: str, path: Path) -> None:
        """Count a finished cell, with the status in the file of its record."""
        try:
            status = record.read(path)["status"]
        except record.RecordError:
            status = "record lost"
        self.end(name, status)
