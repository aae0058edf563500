"""How a program of the harness begins and ends: `python -m harness`, `harness.report` and all others.

`prepare` is called before anything else is imported, by `harness/__init__.py`; `run` calls the program's main function.
A program of others that imports `harness` keeps its own signals and streams.

Signals: those in SIGNALS end a program with the status 128 + number, unless its launcher had them ignored, as `nohup`
does. Servers are then closed, and worktrees and temporary folders removed. What `advise` was given is printed
last.

Streams: a closed or full standard output or standard error stops no program. What cannot be printed is dropped. The
exit status stays, with one exception: where standard output failed other than by a closed pipe, 0 becomes 74 (EX_IOERR
of sysexits.h).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TextIO

# Each would end a program, and a batch system sends one of them before its time limit. Windows has only the first two.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ENDING_S = 15.0  # after a signal, others are not heeded for so long: what is being closed must not be interrupted


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""


class _Output(io.FileIO):
    """A descriptor to which writing never fails: after an error it leads to /dev/null."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all that fits, or drop it; the number of bytes."""
        try:
            while (written := super().write(data)) is None:  # the descriptor does not block, and its pipe is full
                select.select([], [self], [])
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)
        return written


class _Ending:
    """The signal that asked the program to end, and the handler that interrupts it."""

    number: int | None = None
    advice: str | None = None
    _since = -ENDING_S

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise Interrupted, unless the program is ending already."""
        if time.monotonic() - self._since < ENDING_S:
            return
        self._since = time.monotonic()
        self.number = self.number or number
        raise Interrupted

    def interrupt_again(self, unraisable: Any) -> None:
        """Send the signal again where Python dropped the exception, as it does in callbacks of weak references."""
        if self.number is None or not isinstance(unraisable.exc_value, Interrupted):
            sys.__unraisablehook__(unraisable)
            return
        self._since = -ENDING_S
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, self.number)).start()


def is_ours() -> bool:
    """Whether Python is about to run `harness` or a module of it by `python -m`.

    While it looks for the module, sys.argv is ["-m"] and the arguments after the module's name. These are the end of
    sys.orig_argv, which also has the name: `-m harness` or `-mharness`.
    """
    if sys.argv[:1] != ["-m"]:
        return False
    named = sys.orig_argv[-len(sys.argv)]
    module = named.partition("m")[2] if named.startswith("-") else named
    return module.partition(".")[0] == "harness"


def prepare() -> None:
    """Open what the launcher closed, make printing safe, and let Ctrl-C end the program while it imports."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # a file that is opened later would take its place
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  it lives as long as the program
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)
    _handle(signal.SIGINT, lambda number, frame: os._exit(128 + number))


_ENDING = _Ending()


def advise(advice: str) -> None:
    """Print this if a signal ends the program from now on, wherever it is then."""
    _ENDING.advice = advice


def run(main: Callable[[], int], failed: int) -> NoReturn:
    """Call a program's main function and exit with its status, or with `failed` after an exception."""
    sys.unraisablehook = _ENDING.interrupt_again
    status = failed
    with contextlib.suppress(Interrupted):
        try:
            for number in SIGNALS:
                _handle(number, _ENDING.interrupt)
            status = _status(main, failed)
        finally:
            for number in SIGNALS:  # Python's own end would set the defaults again
                signal.signal(number, signal.SIG_IGN)
    if _ENDING.number is not None:
        status = 128 + _ENDING.number
        if _ENDING.advice is not None:
            print(_ENDING.advice, file=sys.stderr)
    raise SystemExit(_flushed(status))


def _status(main: Callable[[], int], failed: int) -> int:
    try:
        return main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return failed
        return ended.code or 0
    except Exception:
        if _ENDING.number is None:  # else it comes of the interruption
            traceback.print_exc()
        return failed


def _flushed(status: int) -> int:
    """The exit status, once all is printed that can be."""
    sys.stdout.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    error = raw.error if isinstance(raw, _Output) else None
    if error is None or error.errno == errno.EPIPE:
        return status
    print(f"harness: standard output could not be written to: {error.strerror}", file=sys.stderr)
    return status or os.EX_IOERR


def _handle(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle a signal, unless the launcher of the program has it ignored."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


def _safe(stream: TextIO | None, descriptor: int) -> TextIO:
    """A stream like standard output or standard error to which printing never fails; None stands for a closed one."""
    buffered = io.BufferedWriter(_Output(descriptor, "w", closefd=False))
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(buffered, errors="backslashreplace")
    return io.TextIOWrapper(
        buffered,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
