"""What runs in a job of Slurm: the cells of a pack, one after another, as far as the job's time goes.

A cell that the end of the job's time cuts off runs again as the first one of a further job. If a whole job is too short
for it, it is recorded as a timeout. Pre-emption and other ends of the job leave the cell to the next job too, or to
this one, where Slurm queues it again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness import program
from harness.cluster import ended, packs
from harness.cluster.place import Place
from harness.compare.baseline import Measured
from harness.run.launcher import Launcher


def run(pack: str) -> None:
    """Run the cells of the pack in a file that the journal beside it does not have yet. submitit calls this.

    Ends the program. Signals end it as any program of the harness: submitit's own handlers would let the cells run on
    while Slurm ends the job, and a cell that Slurm has ended must not be recorded as a crash.
    """
    program.run(lambda: _run(Path(pack)), failed=1)


def _run(file: Path) -> int:
    pack, journal, place = packs.read(file), packs.Journal(file), Place()
    journal.follow()
    left = [at for at in range(len(pack.cells)) if at not in journal.records]
    is_over = _end_in_time(place.left_s())
    if not left or is_over():
        return 0
    place.look()
    first, earlier = pack.cells[left[0]], len(journal.begun)
    with Launcher(place.fields) as launcher:
        source = launcher.source(first.job)
        try:
            for at in left:
                place.attempt = packs.attempt(pack, journal, at)
                _run_cell(pack.cells[at], at, journal, place, launcher)
        except program.Interrupted:
            if is_over() and journal.begun[earlier:] == [left[0]] and journal.cut_off == left[0]:
                path = launcher.finished(first.job, journal.run / first.folder)  # the signal came before its line
                if path is None:
                    verdict = ended.out_of_time(place.job, "its time was over")
                    fields = source | place.fields(first.job, {"status": verdict[0]})
                    path = ended.store(first, journal.run, *verdict, fields)
                journal.end(left[0], path)
            raise
    return 0


def _run_cell(cell: Measured, at: int, journal: packs.Journal, place: Place, launcher: Launcher) -> None:
    """Run a cell and note its record, unless too many jobs have ended while it ran."""
    if place.attempt > ended.TRIES:
        verdict = ended.lost(place.attempt - 1, f"the last, {place.job}, to be queued again")
        fields = launcher.source(cell.job) | place.fields(cell.job, {"status": verdict[0]})
        path = ended.store(cell, journal.run, *verdict, fields | {"attempt": place.attempt - 1})
    else:
        journal.begin(at)
        path = launcher.resume_after_others(cell.job, journal.run / cell.folder)
    journal.end(at, path)


def _end_in_time(left_s: float | None) -> Callable[[], bool]:
    """Have SIGALRM interrupt this program in so many seconds, if they are known; whether they are over."""
    if left_s is None:
        return lambda: False
    end = time.monotonic() + left_s
    if left_s > 0:
        signal.setitimer(signal.ITIMER_REAL, left_s)
    return lambda: time.monotonic() >= end
