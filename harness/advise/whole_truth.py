"""Whether results can be compared with the truth in all parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.job import Job
from harness.run.launcher import Launcher


class WholeTruth:
    """The truth in all parameters, which is looked for once; later agreement passes use it."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.missing: str | None = None  # why there is none; None where there is one, or none was looked for
        self._launcher = launcher
        self._folder = folder
        self._known: bool | None = None

    def known(self, job: Job) -> bool:
        """Whether there is a truth for a job in all parameters."""
        if self._known is None:
            seen = self._launcher.reference(replace(job, passes=("agreement",)), self._folder)
            self._known = seen["status"] == "ok"
            self.missing = None if self._known else seen["message"]
        return bool(self._known)
