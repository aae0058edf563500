"""Follows the jobs of a run from where it was started: submits packs, shows the progress, and settles what has ended.

Nothing goes through this process. It may be killed: a later one goes on from the files in RUN/slurm, from the records
and from what Slurm says of the jobs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import program, record
from harness.cluster import ended, scheduler
from harness.cluster.options import Slurm
from harness.cluster.packs import Pack, identity
from harness.cluster.scheduler import UNKNOWN, SchedulerError, State
from harness.cluster.submissions import Submissions, Task
from harness.compare.baseline import Measured
from harness.config import ConfigError
from harness.run.folders import locked
from harness.run.launcher import Launcher
from harness.run.progress import Progress

SOON_S, LATE_S = 0.5, 10.0  # between two looks at the jobs: a tenth of the time since the first, within these
LOOKS = 5  # one after another, after which a job of which Slurm does not know is lost: the accounting may be late
SHOWN = 3  # jobs that are named
SOURCE = ("method_hash", "problem_hash", "packages", "torch")  # of a record, whatever machine it is of


def run(cells: Sequence[Measured], slurm: Slurm, output: Path, resumes: bool, cancels: bool) -> list[Path]:
    """Have jobs of Slurm run the cells; the files of their records.

    With `resumes`, as far as `output` lacks them: what is queued or running for an earlier call is waited for, and what
    was lost is submitted anew. With `cancels`, jobs end with this call. Raises ConfigError where a job cannot be
    submitted, or cells are left without a record.
    """
    if not resumes and next(output.glob("**/job.json"), None) is not None:
        raise ConfigError(
            f"output={output} holds a run already; go on with it by resume={output}, or name another folder"
        )
    scheduler.check(slurm, {slurm.needs(cell.job) for cell in cells})
    with locked(output / "slurm") as ours:
        if not ours:
            raise ConfigError(
                f"another harness follows the jobs of {output}; wait for it, or end it: its jobs go on without it"
            )
        try:
            with Progress(len(cells)) as progress, Launcher() as launcher:
                return _Following(cells, Submissions(output, slurm), output, progress, launcher).run(cancels)
        except (SchedulerError, record.RecordError) as error:
            raise ConfigError(f"{error}; go on with resume={output}") from error


class _Following:
    """The jobs that are followed, and what has come of them."""

    def __init__(
        self,
        cells: Sequence[Measured],
        submissions: Submissions,
        output: Path,
        progress: Progress,
        launcher: Launcher,
    ) -> None:
        self._cells = {identity(cell): cell for cell in cells}
        self._order = list(map(identity, cells))
        self._submissions = submissions
        self._output = output
        self._progress = progress
        self._launcher = launcher
        self._found: dict[str, Path] = {}  # the records of cells, by `identity`
        self._stopped: list[str] = []  # why jobs are not submitted again
        self._tasks: list[Task] = []
        self._refused = 0  # times one after another that sbatch has refused
        self._shown = ""

    def run(self, cancels: bool) -> list[Path]:
        """Submit what is missing, wait for all jobs, and return the files of the records."""
        began = time.monotonic()
        try:
            self._submissions.add(*self._missing())
            self._submit(patience=1)
            while self._tasks or self._refused:
                self._advise(cancels)
                time.sleep(min(LATE_S, max(SOON_S, 0.1 * (time.monotonic() - began))))
                self._look()
        except BaseException as error:
            if cancels:
                scheduler.cancel(self._submissions.numbers())
            if isinstance(error, SchedulerError | record.RecordError | record.StorageError):
                raise ConfigError(f"{error}; {self._how_to_go_on(cancels)}") from error
            raise
        if self._stopped:
            more = f" and {len(self._stopped) - SHOWN} more" if len(self._stopped) > SHOWN else ""
            raise ConfigError(
                f"cells without a record: {len({*self._order} - self._found.keys())}; "
                f"{'; '.join(self._stopped[:SHOWN])}{more}; go on with resume={self._output}"
            )
        return [self._found[name] for name in self._order]

    def _missing(self) -> tuple[list[Measured], list[Pack]]:
        """Cells that were never submitted, and the rest of the packs whose jobs have ended; keeps those that have not.

        Only cells without a record of today's code are among them.
        """
        wanted = {name for name in self._cells if not self._is_finished(name)}
        earlier = self._submissions.latest(wanted)
        states = scheduler.states([task.number for task in earlier]) if earlier else {}
        again: list[Pack] = []
        for task in earlier:
            state = states[task.number]
            self._collect(task)
            if not state.ended:
                self._tasks.append(task)
            elif (left := self._settled(task, state, resumes=True)) is not None:
                again.append(left)
        known = self._found.keys() | {identity(cell) for pack in again for cell in pack.cells}
        known = known.union(*(task.own for task in self._tasks))
        # A job may have recorded a cell between the two looks at it.
        fresh = [cell for name, cell in self._cells.items() if name not in known and not self._is_finished(name)]
        return fresh, again

    def _is_finished(self, name: str) -> bool:
        """Whether a cell has a record of today's code, which then counts."""
        cell = self._cells[name]
        path = self._launcher.finished(cell.job, self._output / cell.folder)
        if path is not None:
            self._finish(name, path)
        return path is not None

    def _collect(self, task: Task) -> None:
        """Count what a job has recorded."""
        task.journal.follow()
        for at, path in task.journal.records.items():
            if (name := identity(task.pack.cells[at])) in task.own:
                self._finish(name, path)

    def _submit(self, patience: int) -> str:
        """Submit what is to be submitted; why sbatch refuses it, or nothing.

        It is tried again with the next look. Raises SchedulerError where no job is left to wait for, and sbatch has
        refused so many times one after another.
        """
        try:
            for task in self._submissions.submit():
                self._tasks.append(task)
        except SchedulerError as error:
            self._refused += 1
            if not self._tasks and self._refused >= patience:
                raise
            return f"; {error}; trying again"
        self._refused = 0
        return ""

    def _look(self) -> None:
        """See what the jobs have done, and what has ended."""
        try:
            states = scheduler.states([task.number for task in self._tasks]) if self._tasks else {}
        except SchedulerError as error:
            self._show(f"{error}; asking again")  # the controller may be busy, and the jobs run without it
            return
        going: list[Task] = []
        again: list[Pack] = []
        for task in self._tasks:
            state = states[task.number]
            if state.name != "PENDING":
                self._collect(task)
            task.unseen = task.unseen + 1 if state.name == UNKNOWN else 0
            if not state.ended or 0 < task.unseen < LOOKS:
                going.append(task)
            elif (left := self._settled(task, state, resumes=False)) is not None:
                again.append(left)
        self._tasks = going
        self._submissions.add([], again)
        summary = _summary([states[task.number] for task in going])
        self._show(f"{summary}{self._submit(LOOKS)}".removeprefix("; "))

    def _settled(self, task: Task, state: State, resumes: bool) -> Pack | None:
        """What is to be submitted again of a job that has ended, after recording the cell that ended it, if one did."""
        memory = scheduler.killed_for_memory(task.log)
        is_recorded = self._record_cut_off(task, state, memory)
        left = [at for at in task.left if identity(task.pack.cells[at]) not in self._found]
        if not left:
            return None
        cells = [task.pack.cells[at] for at in left]
        # Some clusters cancel a job over its limit. An oom_kill may be of an earlier cell of a job that a user cancels.
        cancelled = state.name == "CANCELLED" and "limit" not in (memory or "")
        if is_recorded or not (cancelled or task.failed_starts >= ended.TRIES):
            return Pack(cells, task.attempt(left[0]), task.failed_starts, task.node(state))
        if resumes:
            return Pack(cells)
        self._stopped.append(f"job {task.number} ended: {state}, its errors are in {task.log}")
        return None

    def _record_cut_off(self, task: Task, state: State, memory: str | None) -> bool:
        """Record the cell that ran when a job ended, if that says what became of the cell; whether it does."""
        at = task.journal.cut_off
        if at is None or at not in task.left:
            return False
        cell, attempts = task.pack.cells[at], task.attempt(at) - 1
        # The job may have ended after the cell's record was written, and before its line in the journal.
        if self._is_finished(identity(cell)):
            return False
        found = ended.verdict(state, task.number, memory, task.is_alone, attempts)
        if found is not None:
            fields = self._source(cell) | {"slurm_job": task.number, "attempt": attempts}
            self._finish(identity(cell), ended.store(cell, self._output, *found, fields))
        return found is not None

    def _source(self, cell: Measured) -> dict[str, Any]:
        """The fields that identify the code of a cell; this machine may have no GPU."""
        seen = self._launcher.source(replace(cell.job, device="cpu"))
        return {name: seen.get(name) for name in SOURCE}

    def _finish(self, name: str, path: Path) -> None:
        """Count a cell's record, once."""
        if name not in self._found:
            self._found[name] = path
            self._progress.end_recorded(self._cells[name].name, path)

    def _show(self, text: str) -> None:
        """Show what the jobs do, if it has changed."""
        if text and text != self._shown:
            self._shown = text
            self._progress.begin(text)
            if not sys.stderr.isatty():
                print(f"harness: {text}", file=sys.stderr, flush=True)

    def _advise(self, cancels: bool) -> None:
        if not cancels:
            program.advise(f"harness: interrupted; {self._how_to_go_on(cancels)}")

    def _how_to_go_on(self, cancels: bool) -> str:
        jobs = sorted({task.number.partition("_")[0] for task in self._tasks})
        if cancels or not jobs:
            return f"go on with resume={self._output}"
        return f"its jobs go on. Follow them with resume={self._output}, or end them with scancel {' '.join(jobs)}"


def _summary(states: Sequence[State]) -> str:
    """How many jobs do what, and why jobs wait."""
    counts: Mapping[str, int] = Counter(state.name.lower() for state in states)
    reasons = sorted({state.detail for state in states if state.name == "PENDING"} - {"None", ""})
    waiting = f" ({', '.join(reasons)})" if reasons else ""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) + waiting
