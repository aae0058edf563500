"""What a run is compared with: records, or another commit or another Python, measured in the same run."""

from __future__ import annotations

import contextlib
import math
import random
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from harness import record
from harness.compare.git import last_line, worktree
from harness.config import ConfigError, checked, list_of, number, text
from harness.job import Job

BASELINE = text(
    "git:REF, interpreter:PATH or the path of records", lambda given: given not in ("", "git:", "interpreter:")
)
SECONDS = number("a time in seconds of at least 0", lambda time: time >= 0)
SLOWDOWN = number("a ratio above 1, as 1.10 for 10 %", lambda ratio: 1 < ratio < math.inf)


@dataclass(frozen=True)
class Comparison:
    """What a run is compared with, and how. Each field is a key of the configuration."""

    baseline: Annotated[str, BASELINE]
    confirm_s: Annotated[float, SECONDS]  # for more processes of cells that are undecided
    slower: Annotated[float, SLOWDOWN]  # ratio from which a slowdown matters
    allow: Annotated[tuple[str, ...], list_of(record.COUNTERS, "counters,")]  # counters that may change

    @property
    def measures_baseline(self) -> bool:
        """Whether the baseline is measured in the same run; else its records are read."""
        return self.baseline.startswith(("git:", "interpreter:"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Comparison | None:
        """That of a merged configuration (plain values), if it asks for one; raises ConfigError."""
        if config["baseline"] is None:
            return None
        values = checked(cls, config)
        return cls(values["baseline"], float(values["confirm_s"]), float(values["slower"]), tuple(values["allow"]))


def how_to_go_on(asked: Comparison | None, output: Path) -> str:
    """What to do with the records in `output` of a run that has ended early."""
    finished = f"the finished records are in {output}"
    if asked is None:
        return f"{finished}. Go on with {shlex.quote(f'resume={output}')}"
    compared = [output / name for name in record.SIDES] if asked.measures_baseline else [asked.baseline, output]
    return f"{finished}. Compare them: python -m harness.compare {shlex.join(map(str, compared))}"


@contextlib.contextmanager
def changes(asked: Comparison | None, place: Path | None = None) -> Iterator[dict[str, Any] | None]:
    """The fields in which a job of the baseline differs; None where no baseline is measured.

    For `git:REF` the commit of the repository in the current directory is checked out into a worktree, which is gone
    on leaving. It is in a folder of `place`, or without one among the temporary files. Raises ConfigError where there
    is no such commit, no Python with torch, or no records at a path.
    """
    if asked is None:
        yield None
        return
    kind, _, value = asked.baseline.partition(":")
    if kind == "interpreter":
        _check_python(value)
        yield {"interpreter": value}
    elif kind == "git":
        with worktree(value, place) as code:
            yield {"code": str(code)}
    else:
        _check_records(asked.baseline)
        yield None


class Measured(NamedTuple):
    """A job to run under a name, whose record goes into a folder of the run."""

    name: str
    job: Job
    folder: str


def in_turn(jobs: Sequence[tuple[str, Job]], change: Mapping[str, Any]) -> Iterator[Measured]:
    """Each named job as baseline and as candidate, one right after the other, in an order drawn by chance.

    A job of the baseline has the fields in `change`. After the first round only times are taken, if any are: all else
    is the same in every process. Later results are judged by what was checked in the first round
    (`harness.run.launcher`).
    """
    first = min((job.round for _, job in jobs), default=0)
    drawn = random.Random(f"{len(jobs)} {first}")
    for name, job in jobs:
        if job.round > first and "time" in job.passes:
            job = replace(job, passes=("time",))
        for folder in drawn.sample(record.SIDES, 2):
            yield Measured(f"{name} ({folder})", replace(job, **change) if folder == "baseline" else job, folder)


def _check_records(place: str) -> None:
    """Raise ConfigError unless there are records."""
    try:
        record.load(place)
    except record.RecordError as error:
        raise ConfigError(
            f"baseline={place}: {error}; give git:REF, interpreter:PATH, or the path of records"
        ) from error


def _check_python(path: str) -> None:
    """Raise ConfigError unless it is a Python that imports torch."""
    try:
        done = subprocess.run([path, "-c", "import torch"], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"baseline=interpreter:{path} cannot be started: {error}") from error
    if done.returncode:
        reason = last_line(done.stderr) or f"exit status {done.returncode}"
        raise ConfigError(f"baseline=interpreter:{path} cannot import torch: {reason}")
