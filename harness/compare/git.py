"""The repository in the current directory: its commits, and folders that hold one of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.config import ConfigError

LIMIT_S = 120.0  # of a git command


@contextlib.contextmanager
def worktree(ref: str, place: Path | None = None) -> Iterator[Path]:
    """The current directory as it was at a commit, in a folder of `place`, until the context ends; raises ConfigError.

    Without a place it is among the temporary files.
    """
    prefix = git("rev-parse", "--show-prefix")
    commit = git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="harness-baseline-", dir=place) as folder:
        tree = Path(folder) / "tree"
        try:
            git("worktree", "add", "--detach", str(tree), commit)
            yield tree / prefix
        finally:
            if tree.exists():
                _remove(tree)


def _remove(tree: Path) -> None:
    """Remove a worktree; print why, where git cannot: what was measured stands all the same."""
    try:
        git("worktree", "remove", "--force", str(tree))
    except ConfigError as error:
        print(f"harness: {error}", file=sys.stderr)


def changed_files(commit: str, *folders: str) -> list[str]:
    """The files in some folders that differ from a commit; raises ConfigError."""
    return git("diff", "--name-only", commit, "--", *folders).splitlines()


def git(*command: str) -> str:
    """The output of a git command; raises ConfigError where it fails.

    Ctrl-C does not reach it, and an interrupted harness waits for its end: half a worktree could not be removed.
    """
    try:
        with subprocess.Popen(
            ["git", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, errors = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"git cannot be run: {error}") from error
    if process.returncode:
        reason = last_line(errors) or f"exit status {process.returncode}"
        raise ConfigError(
            f"git {' '.join(command)} failed: {reason}; name a commit of the repository in the current directory, as "
            "in baseline=git:main, or quoted, \"baseline='git:HEAD~1'\""
        )
    return printed.strip()


def last_line(text: str) -> str:
    """The last line of what a program printed; empty where it printed nothing."""
    return text.strip().rpartition("\n")[2]
