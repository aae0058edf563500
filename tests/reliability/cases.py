"""What the attempts share: their type, a run of the harness in a process of its own, and the smallest cell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

Case = Callable[[Path], None]

# Overrides of a cell that takes about a second: rosenbrock has ten parameters. A busy machine may take far longer.
TINY = ("problem=rosenbrock", "method=func_hessian", "measure.budget_s=0.01", "limit_s=60")


def command(*arguments: str, module: str = "harness") -> list[str]:
    """The command line of a program of the harness."""
    return [sys.executable, "-m", module, *arguments]


def run(
    *arguments: str, module: str = "harness", timeout_s: float = 300, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the harness to its end, with variables added to the environment; raises TimeoutExpired."""
    return subprocess.run(
        command(*arguments, module=module),
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )
