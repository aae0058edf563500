"""A process that has imported torch and forks a fresh child for every pass of a cell.

`harness.run.client` runs it as the main module, by the interpreter of the cells, and with their thread count and
allocator in its environment. A request is one line of JSON on stdin:

    {"number": 1, "job": {...}, "part": "time", "result": "PATH", "log": "PATH", "truth": null, "limit_s": 60}

The answer is one line on stdout once the child and all that it has started have ended:

    {"number", "timed_out", "left_running", "unkillable", "changed", "exit_code", "signal", "out_of_memory"}

The number is that of the request. `changed` names what the pass has changed in the server that later passes would
inherit. The last three are left out after a pass that ran out of time.

The time limit is enforced here. At the end of a pass every process below the server is killed, and so it is when stdin
closes. The keeper (`harness.run.keeper`) does the same where the server itself was stopped or killed. The server never
runs a tensor operation, so that it has no threads when it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from resource import struct_rusage
from typing import Any, BinaryIO

from harness.run import inheritance, keeper, out_of_memory, processes
from harness.run.child_log import ChildLog

POLL_S = 0.05  # how long the end of a child may go unnoticed where the system does not report it
GRACE_S = 0.2  # in which helpers of a library end by themselves once their parent has ended


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until stdin ends."""
    from harness.run import worker

    processes.adopt_orphans()
    worker.preload()
    inherited = inheritance.state()
    answers.write(_line({"ready": True}))
    answers.flush()
    for line in iter(requests.readline, b""):
        answers.write(_line(_answer(json.loads(line), requests, answers) | {"changed": inheritance.changes(inherited)}))
        answers.flush()


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _answer(request: dict[str, Any], requests: BinaryIO, answers: BinaryIO) -> dict[str, Any]:
    kills_before = out_of_memory.system_kills()
    with ChildLog(request["log"]) as log:
        server, child = os.getpid(), os.fork()
        if child == 0:
            answers.close()  # a method must not answer in the server's name
            _run(request, log, server)
        log.close_writing()
        ended = _wait(child, log, requests, time.monotonic() + request["limit_s"])
        left_running = processes.running(GRACE_S) if ended else 0
        killed = processes.end_all(child)
    answer = {
        "number": request["number"],
        "timed_out": ended is None,
        "left_running": left_running,
        "unkillable": not killed,
    }
    if ended is None:
        return answer
    status, usage = ended
    stopped_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return answer | {
        "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": stopped_by,
        "out_of_memory": stopped_by == signal.SIGKILL and out_of_memory.is_likely(kills_before, usage),
    }


def _wait(child: int, log: ChildLog, requests: BinaryIO, deadline: float) -> tuple[int, struct_rusage] | None:
    """Wait for the end of the child, of its time or of the harness, and copy meanwhile what the child prints.

    Returns the child's wait status and use of resources, or None where it ran out of time.
    """
    ends = processes.descriptor(child)
    try:
        while True:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            remaining = deadline - time.monotonic()
            if pid:
                return status, usage
            if remaining <= 0:
                return None
            watched = [requests.fileno()]
            watched += [] if ends is None else [ends]
            watched += [] if log.ended else [log.reading]
            ready = select.select(watched, [], [], min(remaining, POLL_S if ends is None else remaining))[0]
            if requests.fileno() in ready:  # the harness waits for an answer, so this can only be the end of stdin
                processes.end_all(child)
                os._exit(1)
            if log.reading in ready:
                log.copy()
    finally:
        if ends is not None:
            os.close(ends)


def _run(request: dict[str, Any], log: ChildLog, server: int) -> None:
    """Run a pass in the child, in a session of its own, its output going to the log; never returns."""
    code = 1
    try:
        os.setsid()
        processes.end_with_parent(server)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log.writing, 1)
        os.dup2(log.writing, 2)
        os.close(log.writing)
        os.close(log.reading)
        from harness.run import worker

        worker.run(request["job"], request["part"], request["result"], request["truth"])
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # it may be closed, or gone
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to handle
    protocol = os.dup(1)
    os.dup2(2, 1)  # whatever prints on import must not garble the answers
    keeper.start(protocol)
    with os.fdopen(protocol, "wb") as stream:
        serve(sys.stdin.buffer.raw, stream)  # type: ignore[attr-defined]
