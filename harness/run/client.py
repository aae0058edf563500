"""The client of `harness.run.server`: it starts the server process, and asks it for passes of benchmark cells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.record import StorageError, storing

PROBE = b" " * 2**22  # larger than the fields that a pass writes
LIMITS_S = {"rates": 60.0, "identity": 60.0}  # time limits of requests that are no passes of a cell

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
    """A running server process for one interpreter, code, thread count and allocator.

    Raises LaunchError where it cannot be started.
    """

    def __init__(self, interpreter: str, code: str | None, threads: int, allocator: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the server
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
        if self._read() is None:
            reason = self._last_error()
            self.close()
            raise LaunchError(
                f"interpreter={interpreter} cannot run cells: {reason}; "
                "it needs torch, and this harness's folder must be importable"
            )

    def _last_error(self) -> str:
        """The last line that a server which could not start has printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # until it has printed the reason
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").strip().splitlines()
        return printed[-1] if printed else "it ended without a word"

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self._process.poll() is None

    def ask(self, job: Job, part: str, folder: Path, truth: Path | None = None) -> dict[str, Any]:
        """Run one pass; returns its fields of the record, or a status where its process ended without them.

        `truth` is the file that the pass `reference` writes and that `agreement` reads. Raises StorageError where the
        process could not write its files.
        """
        result = folder / f"{part}.json"
        result.unlink(missing_ok=True)
        request = {
            "job": asdict(job),
            "part": part,
            "result": str(result.resolve()),
            "log": str((folder / "log.txt").resolve()),
            "truth": None if truth is None else str(truth),
            "limit_s": LIMITS_S.get(part, job.limit_s),
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the server is gone: there will be no answer
        answer = self._read()
        seen = _written(result)
        for left in (result, *folder.glob(f".{result.name}.*.tmp")):  # a process that was killed leaves the latter
            left.unlink(missing_ok=True)
        if "status" in seen:
            return seen
        _check_written(part, seen, result)
        if answer is None:
            return seen | {"status": "crashed", "message": f"{part} pass: the server process itself was killed"}
        if answer["timed_out"]:
            return seen | {"status": "timeout", "message": f"the {part} pass took longer than limit_s={job.limit_s:g}"}
        return seen | _crash(part, answer, folder / "log.txt")

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        """Close the server's stdin, at which it kills its child and ends; wait for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


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


def _written(result: Path) -> dict[str, Any]:
    """The fields that a pass has written; none where there is no file, or where the method has overwritten it."""
    try:
        seen = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}


def _check_written(part: str, seen: dict[str, Any], result: Path) -> None:
    """Raise StorageError if a pass may have no result because no file could be written.

    Only the reference is believed that its own file could not: its process does not import the method.
    """
    unwritten = seen.pop("unwritten", None)
    if part == "reference" and unwritten is not None:
        raise StorageError(*unwritten)
    with storing(result.parent), tempfile.TemporaryFile(dir=result.parent) as probe:
        probe.write(PROBE)


def _crash(part: str, answer: Mapping[str, Any], log: Path) -> dict[str, Any]:
    """The status of a pass whose process ended without a result."""
    printed = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = f"; it last printed: {printed[-1][:300]}" if printed else ""
    if answer["signal"] == signal.SIGKILL:
        killed = f"the {part} pass was killed from outside (SIGKILL), as the system does when memory runs out"
        return {"status": "oom", "message": killed + last}
    how = f"exit status {answer['exit_code']}"
    if answer["signal"] is not None:
        how = f"signal {signal.Signals(answer['signal']).name}"
    return {"status": "crashed", "message": f"the {part} pass ended with {how}, without a result{last}"}
