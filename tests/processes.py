"""Programs of the harness in the background, and the processes that they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent


def with_signals(*, ignored: Sequence[int] = ()) -> Callable[[], None]:
    """What a launcher does before it starts a program: it has these signals ignored, and no others.

    A shell has SIGINT ignored in what it runs in the background, such as these tests.
    """

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return prepare


@dataclass
class Program:
    """A program in the background, whose processes carry a marker in their environment."""

    process: subprocess.Popen[str]
    marker: str = field(repr=False)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of it, even if a test has failed."""
        self.process.kill()
        self.process.communicate()

    def end(self, timeout_s: float = 60) -> tuple[int, str, str]:
        """Wait for it; its exit status, and what it printed. It is killed at the time limit."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def running(self) -> dict[int, str]:
        """Its processes that run now, with their command lines."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.marker.encode() in (process / "environ").read_bytes():
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(process.name)] = line
            except OSError:
                continue
        return found

    def survivors(self) -> list[str]:
        """Command lines of the processes that still run five seconds after they should be gone."""
        for _ in range(50):
            if not self.running():
                return []
            time.sleep(0.1)
        return list(self.running().values())

    def imports(self) -> bool:
        """Wait until it has loaded the first of its packages; whether it runs still."""
        maps = Path(f"/proc/{self.process.pid}/maps")
        while self.process.poll() is None:
            if "site-packages" in maps.read_text(errors="replace"):
                return True
            time.sleep(0.002)
        return False


def start(*arguments: str, module: str = "harness", ignored: Sequence[int] = (), **env: str) -> Program:
    """Start a program of the harness; its launcher has some signals ignored."""
    marker = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"HARNESS_TEST_MARKER": marker} | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=with_signals(ignored=ignored),
    )
    return Program(process, marker)
