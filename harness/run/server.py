"""A process that has imported torch and forks a fresh child for every pass of a cell.

`harness.run.client` runs it as the main module, by the interpreter of the cells, and with their thread count and
allocator in its environment. A request is one line of JSON on stdin:

    {"number": 1, "job": {...}, "part": "time", "results": ["PATH"], "store": null, "log": "PATH", "truth": null,
    "limit_s": 60}

A pass with several results has as many children (ranks), which run it together (`harness.measure.ranks`). They find
each other by the file `store`. The first that ends badly ends the pass: the others have a short time left to end by
themselves, and are then killed.

The answer is one line on stdout once the children and all that they have started have ended:

    {"number", "timed_out", "behind", "left_running", "unkillable", "changed", "rank", "exit_code", "signal",
    "out_of_memory"}

The number is that of the request. `behind` are the ranks that had not come as far as others. `changed` names what the
pass has changed in the server that later passes would inherit. The last four are of the rank that ended the pass; they
are left out after a pass that ran out of time.

The time limit is enforced here. At the end of a pass every process below the server is killed, and so it is when stdin
closes. The keeper (`harness.run.keeper`) does the same where the server itself was stopped or killed. The server never
runs a tensor operation, so that it has no threads when it forks.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from resource import struct_rusage
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from harness.run import inheritance, keeper, out_of_memory, processes
from harness.run.child_log import ChildLog

if TYPE_CHECKING:
    from harness.measure.ranks import Place

POLL_S = 0.05  # how long the end of a child may go unnoticed where the system does not report it
GRACE_S = 0.2  # in which helpers of a library end by themselves once their parent has ended
OTHERS_S = 0.5  # in which other ranks end by themselves once one has ended badly


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


class _Ended(NamedTuple):
    """How a rank has ended."""

    rank: int
    status: int  # of wait(2)
    usage: struct_rusage


def _answer(request: dict[str, Any], requests: BinaryIO, answers: BinaryIO) -> dict[str, Any]:
    from harness.measure.ranks import Place  # which imports torch

    kills_before = out_of_memory.system_kills()
    count = len(request["results"])
    shared = memoryview(mmap.mmap(-1, 16 * count)).cast("q")  # with the ranks
    arrivals, ended_well = shared[:count], shared[count:]
    with ChildLog(request["log"]) as log:
        server, ranks = os.getpid(), {}
        for rank in range(count):
            child = os.fork()
            if child == 0:
                answers.close()  # a method must not answer in the server's name
                _run(request, Place(rank, count, request["store"], arrivals), ended_well, log, server)
            ranks[child] = rank
        log.close_writing()
        ended = _wait(ranks, ended_well, log, requests, time.monotonic() + request["limit_s"])
        cuts_off_others = ended is not None and not ended_well[ended.rank] and count > 1
        left_running = processes.running(GRACE_S) if ended is not None and not cuts_off_others else 0
        killed = processes.end_all(*ranks)
    answer = {
        "number": request["number"],
        "timed_out": ended is None,
        "behind": [rank for rank in range(count) if arrivals[rank] < max(arrivals)],
        "left_running": left_running,
        "unkillable": not killed,
    }
    if ended is None:
        return answer
    stopped_by = os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else None
    return answer | {
        "rank": ended.rank,
        "exit_code": os.WEXITSTATUS(ended.status) if os.WIFEXITED(ended.status) else None,
        "signal": stopped_by,
        "out_of_memory": stopped_by == signal.SIGKILL and out_of_memory.is_likely(kills_before, ended.usage),
    }


def _wait(
    ranks: Mapping[int, int], ended_well: memoryview, log: ChildLog, requests: BinaryIO, deadline: float
) -> _Ended | None:
    """Wait for the end of all children, of their time or of the harness, and copy meanwhile what they print.

    `ranks` are the children and their ranks; `ended_well` says of each rank whether its pass has. Returns how the first
    one ended that ended badly, or else the last one; None where time ran out before. Of several that are found ended at
    once, one that was killed counts as the first.
    """
    ends = {child: processes.descriptor(child) for child in ranks}
    running, bad, last = set(ranks), None, None
    try:
        while running:
            found = [_Ended(ranks[pid], status, usage) for pid, status, usage in _reaped(running)]
            remaining = deadline - time.monotonic()
            failed = [ended for ended in found if not ended_well[ended.rank]]
            if failed and bad is None:
                bad = max(failed, key=lambda ended: os.WIFSIGNALED(ended.status))
                deadline, remaining = time.monotonic() + OTHERS_S, OTHERS_S
            if found:
                last = found[-1]
                continue
            if remaining <= 0:
                return bad
            pidfds = [ends[child] for child in running]
            known = [number for number in pidfds if number is not None]
            watched = [requests.fileno(), *known, *([] if log.ended else [log.reading])]
            ready = select.select(watched, [], [], min(remaining, POLL_S) if None in pidfds else remaining)[0]
            if requests.fileno() in ready:  # the harness waits for an answer, so this can only be the end of stdin
                processes.end_all(*ranks)
                os._exit(1)
            if log.reading in ready:
                log.copy()
        return bad or last
    finally:
        for number in ends.values():
            if number is not None:
                os.close(number)


def _reaped(running: set[int]) -> Iterator[tuple[int, int, struct_rusage]]:
    """The children among the running that have ended, with wait status and use of resources; they run no more."""
    for child in sorted(running):
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            running.discard(child)
            yield pid, status, usage


def _run(request: dict[str, Any], place: Place, ended_well: memoryview, log: ChildLog, server: int) -> None:
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

        given = request["job"], request["part"], request["results"][place.rank], request["truth"]
        ended_well[place.rank] = worker.run(*given, place if place.count > 1 else None)
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
