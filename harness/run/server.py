"""A process that has imported torch and forks a fresh child for every pass of a cell.

`harness.run.client` runs it as the main module, by the interpreter of the cells, and with their thread count and
allocator in its environment. A request is one line of JSON on stdin:

    {"job": {...}, "part": "time", "result": "PATH", "log": "PATH", "truth": null, "limit_s": 60}

The answer is one line on stdout once the child has ended: {"exit_code", "signal", "timed_out"}.

The time limit is enforced here: the child and whatever it started are killed at the limit. They are also killed when
stdin closes, so that nothing outlives the harness, however it ends. The server itself never runs a tensor operation, so
that it has no threads when it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any, BinaryIO

POLL_S = 0.05  # how long a dead child may go unnoticed where a grandchild holds its pipe open


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until stdin ends."""
    _die_with_parent(signal.SIGTERM)  # while torch is imported, for seconds, nobody watches stdin
    from harness.run import worker

    worker.preload()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on the server ends, and kills its child, when stdin does
    answers.write(b'{"ready": true}\n')
    answers.flush()
    for line in iter(requests.readline, b""):
        answers.write(json.dumps(_answer(json.loads(line), requests)).encode() + b"\n")
        answers.flush()


def _answer(request: dict[str, Any], requests: BinaryIO) -> dict[str, Any]:
    done, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _run(request)
    os.close(held)
    try:
        status, timed_out = _wait(child, done, requests, time.monotonic() + request["limit_s"])
    finally:
        os.close(done)
    stopped_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    return {"exit_code": exit_code, "signal": stopped_by, "timed_out": timed_out}


def _wait(child: int, done: int, requests: BinaryIO, deadline: float) -> tuple[int, bool]:
    """Wait for the end of the child, of its time or of the harness; kill the child's process group.

    Returns the child's wait status, and whether it ran out of time.
    """
    watched = [done, requests.fileno()]
    while True:
        remaining = deadline - time.monotonic()
        ready = select.select(watched, [], [], max(0.0, min(remaining, POLL_S)))[0]
        pid, status = os.waitpid(child, 0 if done in ready else os.WNOHANG)
        if pid:
            _kill_group(child)
            return status, False
        orphaned = requests.fileno() in ready  # the harness waits for an answer, so this can only be the end of stdin
        if orphaned or remaining <= 0:
            _kill_group(child)
            status = os.waitpid(child, 0)[1]
            if orphaned:
                os._exit(1)
            return status, True


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        # The group is gone, or the child was stopped before it made one.
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            return


def _run(request: dict[str, Any]) -> None:
    """Run a pass in the child, in a process group and with a log of its own; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent(signal.SIGKILL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from harness.run import worker

        worker.run(request["job"], request["part"], request["result"], request["truth"])
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # it may be closed, or gone
                stream.flush()
        os._exit(code)


def _die_with_parent(number: int) -> None:
    """Ask Linux to send this signal when the parent dies. Elsewhere the closing of stdin must suffice."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to handle
    protocol = os.dup(1)
    os.dup2(2, 1)  # whatever prints on import must not garble the answers
    with os.fdopen(protocol, "wb") as stream:
        serve(sys.stdin.buffer.raw, stream)  # type: ignore[attr-defined]
