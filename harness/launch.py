"""Runs cells: every pass in a child forked from a server process, its outcome in one record.

Children of one server share its layout of memory, by which some calls were seen to be 13 % faster from one server than
from another, whatever the child. So every round has servers of its own: only then are its processes independent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import record
from harness.job import PASSES, Job

BESIDE_S = 60.0  # time limit of what is no part of a cell: limits and identity

# glibc's settings that keep freed memory instead of returning it: no page faults on the next call.
TUNED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": "268435456",
}


class LaunchError(RuntimeError):
    """No process could be started to run a cell in."""


class Launcher:
    """Runs cells one after another, with one server a round for each interpreter, code, thread count and allocator.

    Use it as a context manager: on leaving, the servers end, and with them whatever still runs, in any thread; a cell
    cut off by that leaves no record.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str | None, int, str], tuple[int, _Server]] = {}  # with the latest round
        self._rates: dict[tuple[str | None, int, str, str, str], dict[str, Any]] = {}
        self._closed = False

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _round, server in list(self._servers.values()):
            server.close()

    def run(self, job: Job, output: Path) -> Path:
        """Run one cell and write record.json, with job.json and the child's log, into a new folder of `output`.

        The folder is called `job.key`, or `<key>.2` and so on where that is there already. Whatever happens to the cell
        is in the record, whose file is returned; only failing to write raises (OSError), and to be closed meanwhile
        (LaunchError).
        """
        return self._run(job, _claim(output, job.key), attempt=1)

    def resume(self, job: Job, output: Path) -> Path:
        """The finished record of a cell, if `output` holds one; else, or to retry a crash once, `run`.

        A record is the cell's own if its job, its method's hash, its torch version and its device are the same.
        """
        for folder in sorted(output.glob(f"{job.key}*")):
            try:
                seen = record.read(folder / "record.json")
            except record.RecordError:
                continue  # interrupted
            now = self._ask(job, "identity", folder)
            if any(seen[name] != now.get(name) for name in ("method_hash", "packages", "torch", "cpu", "gpu")):
                continue
            if seen["status"] == "crashed" and seen["attempt"] == 1:
                return self._run(job, folder, attempt=2)
            return folder / "record.json"
        return self.run(job, output)

    def _run(self, job: Job, folder: Path, attempt: int) -> Path:
        record.write_json(asdict(job), folder / "job.json")
        began = time.perf_counter()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        seen: dict[str, Any] = {"status": "ok", "started": started, "attempt": attempt}
        if "time" in job.passes:
            seen |= self._limits(job, folder)
        for part in job.passes:
            seen = _merge(seen, part, self._ask(job, part, folder))
            if seen["status"] != "ok":
                break
        if self._closed:
            raise LaunchError(f"{folder.name} was interrupted")
        seen["cell_s"] = time.perf_counter() - began
        record.write(job.fields() | seen, folder / "record.json")
        return folder / "record.json"

    def _ask(self, job: Job, part: str, folder: Path) -> dict[str, Any]:
        try:
            return self._server(job).ask(job, part, folder)
        except LaunchError as error:
            return {"status": "error", "message": str(error)}

    def _limits(self, job: Job, folder: Path) -> dict[str, Any]:
        """What the machine can do; measured once for each kind of process, device and dtype."""
        key = (job.interpreter, job.threads, job.allocator, job.device, job.dtype)
        if key not in self._rates:
            seen = self._ask(job, "limits", folder)
            self._rates[key] = {name: seen.get(name) for name in ("gemm_flops_per_s", "write_bytes_per_s")}
        return self._rates[key]

    def _server(self, job: Job) -> _Server:
        key = (job.interpreter or sys.executable, job.code, job.threads, job.allocator)
        if self._closed:
            raise LaunchError("the launcher is closed")
        last, server = self._servers.get(key, (job.round, None))
        if server is not None and (last != job.round or not server.alive):
            server.close()
            server = None
        server = server or _Server(*key)
        self._servers[key] = job.round, server
        return server


class _Server:
    """The harness's end of `harness.server`."""

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
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)  # until it has said why
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise LaunchError(
                f"interpreter={interpreter} cannot run cells: {said[-1] if said else 'it ended without a word'}; "
                "it needs torch, and this harness's folder must be importable"
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Job, part: str, folder: Path) -> dict[str, Any]:
        """Run one pass; its fields of the record, or the status that its process's end stands for."""
        result = folder / f"{part}.json"
        result.unlink(missing_ok=True)
        request = {"job": asdict(job), "part": part, "result": str(result.resolve()),
                   "log": str((folder / "log.txt").resolve()),
                   "limit_s": job.limit_s if part in PASSES else BESIDE_S}  # fmt: skip
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the server is gone: there will be no answer
        answer = self._read()
        seen: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        result.unlink(missing_ok=True)
        if "status" in seen:
            return seen
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
    """A program that runs the server: this harness's own, but with another interpreter's own packages before ours.

    Modules of `code` come before all others but this harness's.
    """
    place = "0" if interpreter == sys.executable else "len(sys.path)"
    before = f"sys.path.insert(0, {str(Path(code).resolve())!r}); " if code else ""
    return (
        f"import runpy, sys; sys.path.insert({place}, {str(Path(__file__).parent.parent)!r}); import harness; {before}"
        "runpy.run_module('harness.server', None, '__main__')"
    )


def _environment(threads: int, allocator: str) -> dict[str, str]:
    """What must be set before torch is imported and glibc's allocator starts."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    return inherited | (TUNED if allocator == "tuned" else {}) | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's own pool, which would be started before the fork
        "OMP_WAIT_POLICY": "PASSIVE",
        "KINETO_LOG_LEVEL": "5",
    }  # fmt: skip


def _claim(output: Path, key: str) -> Path:
    """A new folder for a cell, which no other harness that writes here has."""
    output.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = output / (key if number == 1 else f"{key}.{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _merge(seen: Mapping[str, Any], part: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Add a pass's fields; where memory or counters only ran out of time, that costs columns, not the row."""
    said = [fields.get("message")]
    status = fields["status"]
    if status == "timeout" and part in ("exact", "process"):
        status = seen["status"]
        said = [f"{said[0]}, so not all its columns are filled; raise limit_s to have them"]
    elif status == "timeout" and part == "time" and fields.get("first_s") is not None:
        status = seen["status"]
        said = [f"{said[0]} after the first call, whose time stands for all; raise limit_s to have more"]
    elif status == "timeout":
        said = [f"{said[0]}; raise limit_s, or take a smaller problem or a faster method"]
    message = "; ".join(filter(None, [seen.get("message"), *said])) or None
    worked = seen.get("worked_s", 0.0) + fields.get("worked_s", 0.0)
    return {**seen, **fields, "status": status, "message": message, "worked_s": worked}


def _crash(part: str, answer: Mapping[str, Any], log: Path) -> dict[str, Any]:
    """The status of a pass whose process ended without a result."""
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = f"; it last printed: {said[-1][:300]}" if said else ""
    if answer["signal"] == signal.SIGKILL:
        killed = f"the {part} pass was killed from outside (SIGKILL), as the system does when memory runs out"
        return {"status": "oom", "message": killed + last}
    how = f"exit status {answer['exit_code']}"
    if answer["signal"] is not None:
        how = f"signal {signal.Signals(answer['signal']).name}"
    return {"status": "crashed", "message": f"the {part} pass ended with {how}, without a result{last}"}


def point_latest(output: Path) -> None:
    """Make `LAST` beside the run folder a link to it; where links are not to be had, leave it."""
    link = output.parent / "LAST"
    temporary = output.parent / f".LAST.{os.getpid()}"
    try:
        temporary.symlink_to(output.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
