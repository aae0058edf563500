"""Runs cells: every pass in a child forked from a server process, its outcome in one record.

Children of one server share its layout of memory. Some calls were seen to be 13 % faster from one server than from
another, whatever the child. So every round has servers of its own: only then are its processes independent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.run.client import LaunchError, ServerProcess
from harness.run.folders import POLL_S, claim, lockable, locked, replacement, require_intact
from harness.run.identities import Identities
from harness.run.outcome import merged
from harness.run.references import References
from harness.run.written import PASSED_ON
from harness.truth import timed_results

NOT_OF_RESULT = ("round", "passes")  # fields of a job on which a right result does not depend

Fields = dict[str, Any]  # of a record


class Launcher:
    """Runs cells one after another, with one server a round for each interpreter, code, thread count and allocator.

    Use it as a context manager. On leaving, the servers end, and with them whatever still runs, in any thread. A cell
    that is cut off by that leaves no record.
    """

    def __init__(self, where: Callable[[Job, Mapping[str, Any]], Fields] = lambda job, seen: {}) -> None:
        """Each record also has the fields that `where` gives for its job and the fields seen."""
        self._where = where
        self._servers: dict[tuple[str, str | None, int, str], tuple[int, ServerProcess]] = {}  # with the latest round
        self._rates: dict[tuple[str | None, int, str, str, str], Fields] = {}
        self._checked: dict[str, tuple[Fields, Any]] = {}  # the tolerance of a right result, and its numbers
        self._identities = Identities(lambda job, folder: self._ask(job, "identity", folder))
        self._references = References()
        self._closed = False

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _round, server in list(self._servers.values()):
            server.close()
        self._references.close()

    def run(self, job: Job, output: Path, look: int = 0) -> Path:
        """Run one cell and write record.json, with job.json and the child's log, into a new folder of `output`.

        `look` is that of the record.

        Returns the file of the record, which holds whatever happens to the cell. Raises OSError where a file
        cannot be written, such as on a full disk, and LaunchError where the launcher is closed meanwhile.
        """
        return self._run(job, claim(output, job.key), attempt=1, look=look)

    def resume(self, job: Job, output: Path) -> Path | None:
        """The finished record of a cell, if `output` holds one. A missing cell is run, and a crashed one once more.

        A record is the cell's own if its job, the source of its method and problem, its versions and its device are
        the same. Returns None where another harness resumes the cell now.
        """
        seen = self._identities.finished(job, output)
        if seen is not None and not _is_first_crash(seen):
            return Path(seen["path"])
        # Whoever completes the cell holds the lock of this folder, whatever folder it runs in.
        first, is_new = lockable(output, job.key)
        with locked(first) as ours:
            if not ours:
                return None
            seen = self._identities.finished(job, output)  # another harness may have finished it meanwhile
            if seen is None:
                return self._run(job, first, attempt=1) if is_new else self.run(job, output)
            if _is_first_crash(seen):
                return self._run(job, Path(seen["path"]).parent, attempt=2)
            return Path(seen["path"])

    def resume_after_others(self, job: Job, output: Path) -> Path:
        """The same as `resume`, once no other harness resumes the cell.

        Raises LaunchError where the launcher is closed meanwhile.
        """
        while (record_file := self.resume(job, output)) is None:
            if self._closed:
                raise LaunchError(f"{job.key} was interrupted")
            time.sleep(POLL_S)
        return record_file

    def source(self, job: Job) -> Fields:
        """The fields of a record that identify the source of a job's method and problem, its versions and device."""
        return {name: value for name, value in self._identities.of(job).items() if name not in PASSED_ON}

    def finished(self, job: Job, output: Path) -> Path | None:
        """The finished record of a cell, if `output` holds one that `resume` would take, on whatever machine it ran."""
        seen = self._identities.finished(job, output, anywhere=True)
        return None if seen is None or _is_first_crash(seen) else Path(seen["path"])

    def asks(self, job: Job, folder: Path) -> Fields:
        """`asks`: the names of the parameters of the job's method, read in a process like the cell's.

        Where they cannot be read, `status` and `message` give the reason, and the process's log is in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return self._ask(job, "identity", folder)

    def problem(self, job: Job, folder: Path) -> Fields:
        """The parameters, builder options and attention of the job's problem, built and evaluated without a method.

        `status` is `ok`, or `message` gives the reason why it failed; the process's log is in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return self._ask(job, "problem", folder)

    def reference(self, job: Job, folder: Path) -> Fields:
        """`status` and `message` of the job's reference, which later agreement passes use."""
        folder.mkdir(parents=True, exist_ok=True)
        reference = self._reference(job, folder)
        return reference if isinstance(reference, dict) else {"status": "ok", "message": None}

    def _run(self, job: Job, folder: Path, attempt: int, look: int = 0) -> Path:
        record.write_json(asdict(job), folder / "job.json")
        began = time.perf_counter()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        seen: Fields = {"status": "ok", "started": started, "attempt": attempt, "look": look}
        if "time" in job.passes:
            seen |= self._machine_rates(job, folder)
        for part in job.passes:
            try:
                seen = self._pass(job, folder, seen, part)
                require_intact(folder, asdict(job))
            except record.StorageError as error:
                folder = _replaced(job, folder, error)
                seen = self._identities.of(job) | seen  # which the pass may not have written
                seen |= _crashed(f"the cell's folder was damaged while the {part} pass ran: {error.strerror}")
            if seen["status"] != "ok":
                break
        seen |= self._where(job, seen)
        if self._closed:
            raise LaunchError(f"{folder.name} was interrupted")
        if seen["status"] == "ok":
            seen |= self._verdict_on_timed(job, seen, seen.get("timed", {}), seen.get("checked"))
        seen["cell_s"] = time.perf_counter() - began
        stored = {name: value for name, value in seen.items() if name not in PASSED_ON}
        record.write(job.fields() | stored, folder / "record.json")
        return folder / "record.json"

    def _verdict_on_timed(self, job: Job, seen: Mapping[str, Any], timed: Any, checked: Any) -> Fields:
        """`timed_results.verdict`; a round that only takes times is judged by the check of an earlier round."""
        key = job.text_without(NOT_OF_RESULT)
        if checked is not None and "tolerance" in seen:
            self._checked[key] = {"tolerance": seen["tolerance"]}, checked
        tolerated, right = self._checked.get(key, (seen, None))
        return timed_results.verdict(tolerated, timed, right)

    def _pass(self, job: Job, folder: Path, seen: Fields, part: str) -> Fields:
        """The fields of a cell, `seen` up to now, with those of a pass."""
        if part == "agreement":
            return self._agreement(job, folder, seen)
        return merged(job, seen, part, self._ask(job, part, folder))

    def _agreement(self, job: Job, folder: Path, seen: Fields) -> Fields:
        """The fields of a cell with those of the agreement pass, or with the reason why there is no reference."""
        reference = self._reference(job, folder)
        if isinstance(reference, dict):
            return merged(job, seen, "reference", reference)
        judged = merged(job, seen, "agreement", self._ask(job, "agreement", folder, reference))
        if not self._references.is_intact(reference):
            judged |= _crashed("the file of the reference was changed or removed while the agreement pass ran")
        return judged

    def _reference(self, job: Job, folder: Path) -> Path | Fields:
        return self._references.of(job, lambda path: self._ask(job, "reference", folder, path))

    def _ask(self, job: Job, part: str, folder: Path, truth: Path | None = None) -> Fields:
        try:
            return self._server(job).ask(job, part, folder, truth)
        except LaunchError as error:
            return {"status": "error", "message": str(error)}

    def _machine_rates(self, job: Job, folder: Path) -> Fields:
        """The machine's best rates, measured once for each kind of process, device and dtype."""
        key = (job.interpreter, job.threads, job.allocator, job.device, job.dtype)
        if key not in self._rates:
            seen = self._ask(job, "rates", folder)
            self._rates[key] = {name: seen.get(name) for name in ("gemm_flops_per_s", "write_bytes_per_s")}
        return self._rates[key]

    def _server(self, job: Job) -> ServerProcess:
        """The server of this round for a job's kind of process; a new one where there is none, or it has died."""
        key = (job.interpreter or sys.executable, job.code, job.threads, job.allocator)
        if self._closed:
            raise LaunchError("the launcher is closed")
        last, server = self._servers.get(key, (job.round, None))
        if server is not None and (last != job.round or not server.alive):
            server.close()
            server = None
        server = server or ServerProcess(*key)
        self._servers[key] = job.round, server
        try:
            if self._closed:  # by another thread, which did not see this server
                raise LaunchError("the launcher is closed")
            server.wait_until_ready()
        except LaunchError:
            server.close()
            raise
        return server


def _crashed(message: str) -> Fields:
    return {"status": "crashed", "message": message}


def _replaced(job: Job, folder: Path, error: record.StorageError) -> Path:
    """A new folder for a cell whose own was damaged; raises the error where it is the disk that cannot be written."""
    if error.filename != str(folder):
        raise error
    try:
        return replacement(folder, job.key, asdict(job))
    except record.StorageError:
        raise error from None


def _is_first_crash(seen: Mapping[str, Any]) -> bool:
    return seen["status"] == "crashed" and seen["attempt"] == 1
