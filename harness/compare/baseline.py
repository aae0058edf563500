"""What a run is compared with: records, or, measured beside it in the same run, another commit or another Python."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job, JobError

OUTSIDE = ("conf", "harness")  # what both sides of a run take from the candidate


@dataclass(frozen=True)
class Comparison:
    """What a run is compared with, and how."""

    baseline: str  # git:REF, interpreter:PATH or a path
    confirm_s: float  # for more processes of cells that are undecided, s
    slower: float  # ratio from which a slowdown matters
    allow: tuple[str, ...]  # counters that may change

    @property
    def beside(self) -> bool:
        """Whether the baseline is measured in the same run, in a folder of its own."""
        return self.baseline.startswith(("git:", "interpreter:"))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Comparison | None:
        """That of a merged configuration (plain values), if it asks for one; raises JobError."""
        asked, slower, confirm_s, allow = (config[key] for key in ("baseline", "slower", "confirm_s", "allow"))
        if asked is None:
            return None
        if not isinstance(asked, str) or asked in ("", "git:", "interpreter:"):
            raise JobError(f"baseline={asked} must be git:REF, interpreter:PATH or the path of records")
        if not isinstance(confirm_s, int | float) or not confirm_s >= 0:
            raise JobError(f"confirm_s={confirm_s} must be a time in seconds of at least 0")
        if not isinstance(slower, int | float) or not slower > 1:
            raise JobError(f"slower={slower} must be a ratio above 1, as 1.10 for 10 %")
        if not isinstance(allow, list) or not set(allow) <= set(record.COUNTERS):
            raise JobError(f"allow={allow} must be a list of counters, of {', '.join(record.COUNTERS)}")
        return cls(asked, float(confirm_s), float(slower), tuple(allow))


@contextlib.contextmanager
def beside(asked: Comparison | None) -> Iterator[dict[str, Any] | None]:
    """The fields in which a job of the baseline differs; None where there is none, or it is a path, of records.

    For `git:REF` the commit of the repository in the current directory is checked out into a worktree, which is gone
    on leaving. Raises JobError where there is no such commit, Python with torch, or path.
    """
    kind, _, value = (asked.baseline if asked is not None else "").partition(":")
    if kind == "interpreter":
        _check_python(value)
        yield {"interpreter": value}
    elif kind == "git":
        with _worktree(value) as code:
            yield {"code": str(code)}
    else:
        if asked is not None:
            _check_records(asked.baseline)
        yield None


def conclude(asked: Comparison, output: Path) -> int:
    """Compare what a run found with its baseline, print the verdicts, write them beside the records; exit status.

    3, with a message, where no comparison can be made.
    """
    from harness.compare import output as shown
    from harness.compare.confirm import LOOKS
    from harness.compare.verdicts import compare, side

    base, candidate = (output / side for side in record.SIDES) if asked.beside else (Path(asked.baseline), output)
    try:
        frames = [record.load(side(base)), record.load(candidate)]
        looks = LOOKS if asked.beside and asked.confirm_s else 1
        if asked.beside and (frames[0]["status"] == "error").all() and (frames[1]["status"] != "error").any():
            raise JobError(f"no cell of {asked.baseline} could be run: {frames[0]['message'].iloc[0]}")
        verdicts = compare(*frames, guard=asked.slower, allow=asked.allow, looks=looks)
        verdicts.attrs["notes"] += _outside(asked, frames[0]["commit"].dropna())
        shown.terminal(verdicts)
        (output / "verdict.md").write_text(shown.markdown(verdicts), encoding="utf-8")
        (output / "verdict.xml").write_text(shown.junit(verdicts), encoding="utf-8")
    except (record.RecordError, JobError, OSError) as error:
        print(f"harness: {error}", file=sys.stderr)
        return 3
    return shown.status(verdicts)


def _outside(asked: Comparison, commits: Collection[str]) -> list[str]:
    """What both sides take from the candidate although the baseline's commit has it otherwise, or not at all."""
    if not asked.baseline.startswith("git:") or not len(commits):
        return []
    try:
        changed = _git("diff", "--name-only", next(iter(commits)), "--", *OUTSIDE).splitlines()
    except JobError as error:
        return [f"whether {' and '.join(OUTSIDE)} have changed is not known: {error}"]
    named = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return [f"both sides ran the candidate's {named}, which {asked.baseline} has otherwise"] if changed else []


def _check_records(place: str) -> None:

    try:
        record.load(place)
    except record.RecordError as error:
        raise JobError(f"baseline={place}: {error}; give git:REF, interpreter:PATH, or the path of records") from error


def _check_python(path: str) -> None:
    try:
        done = subprocess.run([path, "-c", "import torch"], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JobError(f"baseline=interpreter:{path} cannot be started: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise JobError(f"baseline=interpreter:{path} cannot import torch: {said[-1] if said else done.returncode}")


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
            try:
                _git("worktree", "remove", "--force", str(tree))
            except JobError as error:  # what was measured stands all the same
                print(f"harness: {error}", file=sys.stderr)


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


def both(jobs: Sequence[tuple[str, Job]], change: dict[str, Any]) -> Iterator[tuple[str, Job, str]]:
    """Each named job on both sides, one right after the other, in an order drawn by chance: name, job and side.

    After the first round only times are taken, if any are: all else is the same in every process. What is timed then is
    judged by what was checked in the first (`harness.run.launcher`).
    """
    first = min((job.round for _, job in jobs), default=0)
    drawn = random.Random(f"{len(jobs)} {first}")
    for name, job in jobs:
        if job.round > first and "time" in job.passes:
            job = replace(job, passes=("time",))
        for side in drawn.sample(record.SIDES, 2):
            yield f"{name} ({side})", replace(job, **(change if side == "baseline" else {})), side
