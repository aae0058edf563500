"""The repository in the current directory: its commits, and folders that hold one of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.config import ConfigError


@contextlib.contextmanager
def worktree(ref: str) -> Iterator[Path]:
    """The current directory as it was at a commit, until the context ends; raises ConfigError."""
    prefix = git("rev-parse", "--show-prefix")
    commit = git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="harness-baseline-") as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree / prefix
        finally:
            try:
                git("worktree", "remove", "--force", str(tree))
            except ConfigError as error:  # what was measured stands all the same
                print(f"harness: {error}", file=sys.stderr)


def changed_files(commit: str, *folders: str) -> list[str]:
    """The files in some folders that differ from a commit; raises ConfigError."""
    return git("diff", "--name-only", commit, "--", *folders).splitlines()


def git(*command: str) -> str:
    """The output of a git command; raises ConfigError where it fails."""
    try:
        done = subprocess.run(["git", *command], capture_output=True, text=True, check=True, timeout=120)
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"git {' '.join(command)} failed: {last_line(error.stderr) or error}; name a commit of the repository in "
            "the current directory, as in baseline=git:main, or quoted, \"baseline='git:HEAD~1'\""
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"git cannot be run: {error}") from error
    return done.stdout.strip()


def last_line(text: str) -> str:
    """The last line of what a program printed; empty where it printed nothing."""
    return text.strip().rpartition("\n")[2]
