"""The client of `harness.run.server`: it starts the server process, and asks it for passes of benchmark cells."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.job import PASSES, Job
from harness.record import StorageError
from harness.run import outcome, processes, several, written
from harness.run.folders import require_room

RANKED = (*PASSES, "peak")  # parts that all processes of a cell run together
LIMITS_S = {"rates": 60.0, "identity": 60.0}  # time limits of requests that are no passes of a cell
START_S = 300.0  # for the import of torch, which may lie on a slow network disk
LATE_S = 2 * processes.END_S + 10.0  # after its time limit, a pass must have ended or the server does not work
CLOSE_S = 2 * processes.END_S
LONGEST_ANSWER = 2**16  # bytes; the server's have some hundred

# Types of the server's answer, and of what it adds where the pass has ended in time.
ANSWER = {
    "number": int,
    "timed_out": bool,
    "behind": list,
    "left_running": int,
    "unkillable": bool,
    "changed": str,
}
OF_ENDED = {"rank": int, "exit_code": int | None, "signal": int | None, "out_of_memory": bool}

# Settings with which glibc keeps freed memory instead of returning it: no page faults on the next call.
TUNED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": "268435456",
}


class LaunchError(RuntimeError):
    """No process could be started to run a cell in."""


class ServerProcess:
    """A server process for one interpreter, code, thread count and allocator, which takes seconds to be ready.

    Raises LaunchError where it cannot be started.
    """

    def __init__(self, interpreter: str, code: str | None, threads: int, allocator: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the server
        self._asking = threading.Lock()  # held while the pipes are read, and closed
        self._interpreter, self._ready, self._asked = interpreter, False, 0
        try:
            self._process = subprocess.Popen(
                [interpreter, "-c", _bootstrap(interpreter, code)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(threads, allocator),
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"interpreter={interpreter} cannot be started: {error}") from error

    def wait_until_ready(self) -> None:
        """Wait until it can be asked; raises LaunchError where it ends before, or is closed by another thread."""
        if self._ready:
            return
        with self._asking:
            answer = self._read(START_S)
            if answer is None or "ready" not in answer:
                raise LaunchError(
                    f"interpreter={self._interpreter} cannot run cells: {self._last_error()}; "
                    "it needs torch, and this harness's folder must be importable"
                )
        self._ready = True

    def _last_error(self) -> str:
        """The last line that a server which could not start has printed."""
        if self._errors.closed:
            return "it was closed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # until it has printed the reason
        if self._process.poll() is None:
            return f"it has not started within {START_S:g} s"
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").strip().splitlines()
        return printed[-1] if printed else "it ended without a word"

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return not self._closed and self._process.poll() is None

    @property
    def _closed(self) -> bool:
        assert self._process.stdin is not None
        return self._process.stdin.closed

    def ask(self, job: Job, part: str, folder: Path, truth: Path | None = None) -> dict[str, Any]:
        """Run one pass; returns its fields of the record, or a status where its process ended without them.

        `truth` is the file that the pass `reference` writes and that `agreement` reads. Where the server does not
        answer, cannot end what it has started, or was changed by the pass, it is closed. Raises StorageError where the
        process could not write its files: with the folder as its filename, or with `truth`.
        """
        log, limit_s = folder / "log.txt", LIMITS_S.get(part, job.limit_s)
        ranks = range(1, job.processes if part in RANKED else 1)
        results = [folder / f"{part}.json", *(folder / f"{part}.rank{rank}.json" for rank in ranks)]
        place = folder.resolve()  # not the files: a method can have made links of them, which must not be followed
        for result in results:
            written.remove(result)
        self._asked += 1
        place_of_store = contextlib.nullcontext()
        if len(results) > 1:
            place_of_store = tempfile.TemporaryDirectory(prefix="harness-ranks-", ignore_cleanup_errors=True)
        request = {
            "number": self._asked,
            "job": asdict(job),
            "part": part,
            "results": [str(place / result.name) for result in results],
            "log": str(place / log.name),
            "truth": None if truth is None else str(truth),
            "limit_s": limit_s,
        }
        with self._asking, place_of_store as meeting:
            self._write(request | {"store": meeting and f"{meeting}/store"})
            answer = self._read(limit_s + LATE_S)
        if answer is not None and not _is_answer(answer, request["number"]):
            answer = None
        if answer is None or "ended" in answer or answer["unkillable"] or answer["changed"]:
            self.close()
        try:
            of_ranks = [written.fields(result, job) for result in results]
            for seen in of_ranks:
                if "status" not in seen:
                    _check_written(part, seen, folder, truth)
            seen = of_ranks[0] if len(of_ranks) == 1 else several.together(of_ranks, answer)
            return outcome.of_pass(part, limit_s, answer, seen, log, len(of_ranks))
        except written.TamperedError as error:
            return {"status": "crashed", "message": f"the file of the {part} pass's result was overwritten: {error}"}
        finally:
            # A process that was killed leaves a temporary file.
            for left in (
                *results,
                *(temporary for result in results for temporary in folder.glob(f".{result.name}.*.tmp")),
            ):
                written.remove(left)

    def _write(self, request: Mapping[str, Any]) -> None:
        """Send a request; where the server is gone, nothing happens, and there will be no answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self, limit_s: float) -> dict[str, Any] | None:
        """The object in the next line from the server; None where there is none within the limit.

        A method that writes into the server's pipe can leave there anything, such as a line without an end.
        """
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return None
        deadline, line = time.monotonic() + limit_s, b""
        answers = select.poll()
        answers.register(self._process.stdout, select.POLLIN)
        while b"\n" not in line:
            if len(line) > LONGEST_ANSWER or not answers.poll(max(deadline - time.monotonic(), 0.0) * 1e3):
                return None
            chunk = os.read(self._process.stdout.fileno(), LONGEST_ANSWER)
            if not chunk:
                return None
            line += chunk
        try:
            answer = json.loads(line.partition(b"\n")[0])
        except (ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) else None

    def close(self) -> None:
        """Close the server's stdin, at which all its processes end; wait for that, but not for ever.

        A server that is not ready is killed: it has no child, and does not read its stdin for seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._ready:
            processes.kill_below(self._process.pid)
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            processes.kill_below(self._process.pid)
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
        with self._asking:  # another thread reads the end of the stream first
            self._process.stdout.close()
            self._errors.close()


def _is_answer(answer: dict[str, Any], number: int) -> bool:
    """Whether an object is the server's answer to the request of this number, or why the server has ended."""
    if "ended" in answer:
        return True
    types = ANSWER if answer.get("timed_out") is True else ANSWER | OF_ENDED
    return answer.get("number") == number and all(isinstance(answer.get(name), types[name]) for name in types)


def _bootstrap(interpreter: str, code: str | None) -> str:
    """A program that runs the server of this harness.

    Packages of another interpreter come before ours. Modules of `code` come before all others except this harness's.
    """
    index = "0" if interpreter == sys.executable else "len(sys.path)"
    add_harness = f"sys.path.insert({index}, {str(Path(__file__).parents[2])!r})"
    statements = ["import runpy, sys", add_harness, "import harness"]
    if code:
        statements.append(f"sys.path.insert(0, {str(Path(code).resolve())!r})")
    statements.append("runpy.run_module('harness.run.server', None, '__main__')")
    return "; ".join(statements)


def _environment(threads: int, allocator: str) -> dict[str, str]:
    """The variables that must be set before torch is imported and glibc's allocator starts."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    allocation = TUNED if allocator == "tuned" else {}
    return (
        inherited
        | allocation
        | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",  # numpy's own pool, which would be started before the fork
            "OMP_WAIT_POLICY": "PASSIVE",
            "KINETO_LOG_LEVEL": "5",
        }
    )


def _check_written(part: str, seen: dict[str, Any], folder: Path, truth: Path | None) -> None:
    """Raise StorageError if a pass may have no result because no file could be written.

    Only the reference is believed that its own file could not: its process does not import the method.
    """
    unwritten = seen.pop("unwritten", None)
    if part == "reference" and unwritten is not None and unwritten[2] == str(truth):
        raise StorageError(*unwritten)
    require_room(folder)
