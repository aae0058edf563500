"""The commit of a folder's files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def commit(root: Path, part: str = ".") -> dict[str, Any]:
    """Commit of the clone or worktree that a folder is the root of, and whether a part of it is dirty; else null."""
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    commands = ["rev-parse", "HEAD"], ["status", "--porcelain", "--", part]
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": head.strip(), "dirty": bool(changes.strip())}
