"""What a sweep is compared with, measured beside it in the same run: another commit of the code, or another Python."""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.job import Job, JobError

SIDES = ("baseline", "candidate")  # folders of a run, one for each


@contextlib.contextmanager
def beside(asked: Collection[str | None]) -> Iterator[dict[str, Any] | None]:
    """The fields in which a job of the baseline differs; None where there is none, or it is a path, of records.

    `asked` is what the cells of a run ask for, which must be the same for all.

    For `git:REF` the commit of the repository in the current directory is checked out into a worktree, which is gone
    on leaving. Raises JobError where there is no such commit or path.
    """
    if len(asked) > 1:
        raise JobError(
            f"baseline={', '.join(map(str, asked))}: all cells of a run have the same; sweep over something else"
        )
    named = next(iter(asked), None)
    kind, _, value = (named or "").partition(":")
    if kind == "interpreter":
        yield {"interpreter": value}
    elif kind == "git":
        with _worktree(value) as code:
            yield {"code": str(code)}
    elif named is None or Path(named).exists():
        yield None
    else:
        raise JobError(f"baseline={named} is not there; give git:REF, interpreter:PATH, or the path of records")


@contextlib.contextmanager
def _worktree(ref: str) -> Iterator[Path]:
    """The current directory as it was at a commit."""
    prefix, commit = (
        _git("rev-parse", "--show-prefix"),
        _git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}"),
    )
    with tempfile.TemporaryDirectory(prefix="harness-baseline-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree / prefix
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*command: str) -> str:
    try:
        done = subprocess.run(["git", *command], capture_output=True, text=True, check=True, timeout=120)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise JobError(
            f"git {' '.join(command)} failed: {said[-1] if said else error}; name a commit of the repository in the "
            "current directory, as in baseline=git:main, or quoted, \"baseline='git:HEAD~1'\""
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JobError(f"git cannot be run: {error}") from error
    return done.stdout.strip()


def both(jobs: Sequence[tuple[str, Job]], change: dict[str, Any], first: int = 0) -> Iterator[tuple[str, Job, str]]:
    """Each named job on both sides, one right after the other, in an order drawn by chance: name, job and side.

    After the round `first` only times are taken, if any are: all else is the same in every process.
    """
    drawn = random.Random(f"{len(jobs)} {first}")
    for name, job in jobs:
        if job.round > first and "time" in job.passes:
            job = replace(job, passes=("time",))
        for side in drawn.sample(SIDES, 2):
            yield f"{name} ({side})", replace(job, **(change if side == "baseline" else {})), side
