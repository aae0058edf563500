"""What a program does when it is asked to end."""

from __future__ import annotations

import signal
import sys


def exit_when_asked() -> None:
    """Exit on SIGTERM and SIGHUP as by sys.exit, so that servers are closed and worktrees removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
