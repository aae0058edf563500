"""A small process between the harness and a server: it ends the server and all below it, whatever has happened to them.

A method can stop or kill the server, which is its parent. Then nobody would end what it has started. The keeper does
so in every case: where the server has ended or was stopped, and where the harness has ended. It is forked before torch
is imported, so that it costs a few megabytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys

from harness.run import processes

CHECK_S = 0.5  # between two looks at the server's state


def start(answers: int) -> None:
    """Fork: the parent stays here as the keeper, and the child returns as the server. It does nothing but on Linux.

    Stdin is the pipe from the harness. The keeper reads nothing from it, but notices its end.
    `answers` is the descriptor of the pipe to the harness. Its last line says why the server has ended.
    """
    if sys.platform != "linux":
        return
    harness = os.getppid()
    processes.adopt_orphans()
    processes.signal_at_end_of_parent(signal.SIGCONT)  # a stopped keeper must continue to end what it keeps
    keeper, server = os.getpid(), os.fork()
    if server:
        _keep(server, harness, answers)
    processes.end_with_parent(keeper)


def _keep(server: int, harness: int, answers: int) -> None:
    """Wait for the end of the server or of the harness, then end all processes; never returns."""
    try:
        reason = _reason_to_end(server, harness)
    finally:
        processes.end_all(server)
    with contextlib.suppress(OSError):
        os.write(answers, json.dumps({"ended": reason}).encode() + b"\n")
    os._exit(0)


def _reason_to_end(server: int, harness: int) -> str:
    """Wait for the end of the server or of the harness; what has happened to the server."""
    watched = select.poll()
    watched.register(0, 0)  # only the end
    ends = processes.descriptor(server)
    if ends is not None:
        watched.register(ends)
    stopped_before = False
    while True:
        closed = any(number == 0 for number, _ in watched.poll(CHECK_S * 1e3))
        stopped = processes.state(server) == "T"
        pid, status = os.waitpid(server, os.WNOHANG)
        if pid:
            return _how(status)
        if closed or os.getppid() != harness:
            return "was left by the harness"
        if stopped and stopped_before:
            return "was stopped (SIGSTOP)"
        stopped_before = stopped


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed ({processes.signal_name(os.WTERMSIG(status))})"
    return f"ended with exit status {os.WEXITSTATUS(status)}"
