"""Runs cells: every pass in a child forked from a server process, its outcome in one record.

Children of one server share its layout of memory, by which some calls were seen to be 13 % faster from one server than
from another, whatever the child. So every round has servers of its own: only then are its processes independent.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.run.client import LaunchError, Server
from harness.truth import timed

# What the reference of a cell does not depend on: the same is used for every method and round.
BESIDE_TRUTH = ("problem", "method", "target", "method_options", "round", "passes")
STUCK = 30  # times the slowest sample: a call that has not ended by then computes what those did not,
STUCK_S = 0.5  # and this at least: less may be a machine under load


class Launcher:
    """Runs cells one after another, with one server a round for each interpreter, code, thread count and allocator.

    Use it as a context manager: on leaving, the servers end, and with them whatever still runs, in any thread; a cell
    cut off by that leaves no record.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str | None, int, str], tuple[int, Server]] = {}  # with the latest round
        self._rates: dict[tuple[str | None, int, str, str, str], dict[str, Any]] = {}
        self._truths: dict[str, Path | dict[str, Any]] = {}  # files of references, or why there is none
        self._checked: dict[str, tuple[dict[str, Any], Any]] = {}  # the tolerance of a right result, and its numbers
        self._files = tempfile.TemporaryDirectory(prefix="harness-references-")
        self._closed = False

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _round, server in list(self._servers.values()):
            server.close()
        self._files.cleanup()

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

    def asks(self, job: Job, folder: Path) -> dict[str, Any]:
        """`asks`, the names of what the job's method takes, read in a process like the cell's; or why it cannot be had.

        In that case `status` and `message` say why; the process's log is left in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return self._ask(job, "identity", folder)

    def problem(self, job: Job, folder: Path) -> dict[str, Any]:
        """What `worker` finds of the job's problem, which it builds and evaluates once, without a method.

        `status` is `ok`, or `message` says why it failed; the process's log is left in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return self._ask(job, "problem", folder)

    def reference(self, job: Job, folder: Path) -> dict[str, Any]:
        """`status` and `message` of the job's reference, which later agreement passes use."""
        folder.mkdir(parents=True, exist_ok=True)
        truth = self._truth(job, folder)
        return truth if isinstance(truth, dict) else {"status": "ok", "message": None}

    def _run(self, job: Job, folder: Path, attempt: int) -> Path:
        record.write_json(asdict(job), folder / "job.json")
        began = time.perf_counter()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        seen: dict[str, Any] = {"status": "ok", "started": started, "attempt": attempt}
        if "time" in job.passes:
            seen |= self._limits(job, folder)
        for part in job.passes:
            if part == "agreement":
                seen = self._agreement(job, folder, seen)
            else:
                seen = _merge(job, seen, part, self._ask(job, part, folder))
            if seen["status"] != "ok":
                break
        if self._closed:
            raise LaunchError(f"{folder.name} was interrupted")
        seen.pop("running", None)
        told, checked = seen.pop("timed", {}), seen.pop("checked", None)
        if seen["status"] == "ok":
            seen |= self._timed(job, seen, told, checked)
        seen["cell_s"] = time.perf_counter() - began
        record.write(job.fields() | seen, folder / "record.json")
        return folder / "record.json"

    def _timed(self, job: Job, seen: Mapping[str, Any], told: Any, checked: Any) -> dict[str, Any]:
        """`timed.verdict`; where a round takes only times, by what was checked in an earlier round of the cell."""
        key = _without(job, ("round", "passes"))
        if checked is not None and "tolerance" in seen:
            self._checked[key] = {"tolerance": seen["tolerance"]}, checked
        known, checked = self._checked.get(key, (seen, None))
        return timed.verdict(known, told, checked)

    def _agreement(self, job: Job, folder: Path, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Add the fields of the agreement pass, once there is a reference."""
        truth = self._truth(job, folder)
        if isinstance(truth, dict):
            return _merge(job, seen, "reference", truth)
        return _merge(job, seen, "agreement", self._ask(job, "agreement", folder, truth))

    def _truth(self, job: Job, folder: Path) -> Path | dict[str, Any]:
        """The file of the reference, computed once by a process that has seen no method; or why there is none.

        That it takes too long is found once too; after another failure it is tried again.
        """
        key = _without(job, BESIDE_TRUTH)
        if key not in self._truths:
            path = Path(self._files.name, f"{len(self._truths)}.pt")
            seen = self._ask(job, "reference", folder, path)
            if seen["status"] not in ("ok", "timeout"):  # a crash, say, which may strike by chance: asked again
                return seen
            self._truths[key] = path if seen["status"] == "ok" else seen
        return self._truths[key]

    def _ask(self, job: Job, part: str, folder: Path, truth: Path | None = None) -> dict[str, Any]:
        try:
            return self._server(job).ask(job, part, folder, truth)
        except LaunchError as error:
            return {"status": "error", "message": str(error)}

    def _limits(self, job: Job, folder: Path) -> dict[str, Any]:
        """What the machine can do; measured once for each kind of process, device and dtype."""
        key = (job.interpreter, job.threads, job.allocator, job.device, job.dtype)
        if key not in self._rates:
            seen = self._ask(job, "limits", folder)
            self._rates[key] = {name: seen.get(name) for name in ("gemm_flops_per_s", "write_bytes_per_s")}
        return self._rates[key]

    def _server(self, job: Job) -> Server:
        key = (job.interpreter or sys.executable, job.code, job.threads, job.allocator)
        if self._closed:
            raise LaunchError("the launcher is closed")
        last, server = self._servers.get(key, (job.round, None))
        if server is not None and (last != job.round or not server.alive):
            server.close()
            server = None
        server = server or Server(*key)
        self._servers[key] = job.round, server
        return server


def _without(job: Job, names: tuple[str, ...]) -> str:
    """A job's fields but for some, as text."""
    return json.dumps({name: value for name, value in asdict(job).items() if name not in names})


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


def _merge(job: Job, seen: Mapping[str, Any], part: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Add a pass's fields; where all but the samples ran out of time, that costs columns, not the row."""
    said = [fields.get("message")]
    status = fields["status"]
    if status == "timeout" and part == "time" and _stuck(job, fields):
        slowest = max(fields["times_s"])
        said = [
            f"{said[0]}: the timed calls took {slowest:.1e} s, but one with other values in theta did not end, so that "
            "those looked up what had been computed before"
        ]
    elif status == "timeout" and (part in ("exact", "peak", "process") or (part == "time" and fields.get("times_s"))):
        status = seen["status"]
        said = [f"{said[0]}, so not all its columns are filled; raise limit_s to have them"]
    elif status == "timeout" and part == "time" and fields.get("first_s") is not None:
        status = seen["status"]
        said = [f"{said[0]} after the first call, whose time stands for all; raise limit_s to have more"]
    elif status == "timeout":
        slow = "a smaller problem" if part == "reference" else "a smaller problem or a faster method"
        said = [f"{said[0]}; raise limit_s, or take {slow}"]
    message = "; ".join(filter(None, [seen.get("message"), *said])) or None
    worked = seen.get("worked_s", 0.0) + fields.get("worked_s", 0.0)
    return {**seen, **fields, "status": status, "message": message, "worked_s": worked}


def _stuck(job: Job, fields: Mapping[str, Any]) -> bool:
    """Whether the time ran out in a call of the method at a fresh point that took far longer than any sample."""
    called = fields.get("running") == "fresh call"
    return called and job.limit_s - fields["worked_s"] > max(STUCK * max(fields["times_s"]), STUCK_S)


def point_latest(output: Path) -> None:
    """Make `LAST` beside the run folder a link to it; where links are not to be had, leave it."""
    link = output.parent / "LAST"
    temporary = output.parent / f".LAST.{os.getpid()}"
    try:
        temporary.symlink_to(output.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
