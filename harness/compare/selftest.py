"""How often the verdict is wrong on this machine: code against a copy of itself, and against copies made worse.

Every run is a whole one, of fresh processes. All cells are run by the code and by its copy, in turn. One cell, another
in each run, is also run by copies in which every call is slower by 5, 10 or 20 %, every fifth call is twice as slow,
each call makes one more copy of its result, or one more operator call. The last two count as found only if they are
also found where the records name another machine.
The shares of runs are printed with their 95 % intervals (Clopper and Pearson 1934).
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas
from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from scipy import stats

from harness import record
from harness.compare.confirm import confirm
from harness.compare.jobs import read_job, refuse_foreign
from harness.compare.verdicts import ALARMS, compare
from harness.compare.worse_methods import EXACT, METHODS, SLOWER, copy_methods, made_worse, unchanged
from harness.job import Job
from harness.record.identity import ASKED, canonical
from harness.run.launcher import Launcher

ROUNDS = 10
CONFIRM_S = 300.0  # of each comparison, as in conf/sweep/nightly.yaml
RUNS = "the same: runs with an alarm"
CHANGED = ("broken", "slower", "faster", "undecided")  # verdicts on the same code that claim too much or too little
CELLS = {name: f"the same: cells {name}" for name in CHANGED}


def selftest(runs: int, load: float, cells: Path | None = None, trusted: bool = False) -> int:
    """Measure and print; `cells` is a run folder whose cells are taken, by default those of `+sweep=nightly`.

    `load` is the share of its time in which another process keeps one core busy. An interrupted self-test prints what
    its finished runs have found. Returns the exit status. Raises RecordError for a run folder that is not `trusted` and
    names an interpreter or a function outside the harness.
    """
    counts = Counter(dict.fromkeys((RUNS, *CELLS.values(), *SLOWER, *EXACT), 0))
    durations: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, _busy(load), Launcher() as launcher:
        root = Path(temporary)
        jobs = _jobs(_nightly(root / "cells"), trusted=True) if cells is None else _jobs(cells, trusted)
        copy_methods(root)
        try:
            for number in range(runs):
                run = _Run(launcher, root, root / str(number), jobs, worse=jobs[number % len(jobs)])
                found, lasted_s = run.outcome(seed=number)
                counts.update(found)
                durations.append(lasted_s)
                print(f"run {number + 1}/{runs}: {dict(counts)}", file=sys.stderr, flush=True)
                shutil.rmtree(run.folder)
        finally:  # an interruption keeps what the finished runs have found
            if durations:
                _print(counts, len(jobs), durations, load)
    return 0


@dataclass(frozen=True)
class _Run:
    """One run of the selftest: all cells by the code and its copy, and one cell by the copies made worse."""

    launcher: Launcher
    root: Path  # of the copies of the methods
    folder: Path  # of the run's records
    jobs: Sequence[Job]
    worse: Job  # the cell that is also run by the copies made worse

    def outcome(self, seed: int) -> tuple[Counter[str], float]:
        """What was claimed and found, and the seconds that a nightly run would have taken."""
        began = time.monotonic()
        copies_s = self.measure(seed)
        found = self.verdicts_on_the_same()
        lasted_s = time.monotonic() - began - copies_s
        found.update(name for name in SLOWER if self.slower_is_found(name))
        found.update(name for name in EXACT if self.exact_is_found(name))
        return found, lasted_s

    def measure(self, seed: int) -> float:
        """Run ROUNDS rounds of all jobs in random order; the seconds that the slower copies took.

        As in a nightly run, all passes but the time are run in the first round alone.
        """
        drawn, copies_s = random.Random(seed), 0.0
        for turn in range(ROUNDS):
            for job in drawn.sample(self.jobs, len(self.jobs)):
                jobs = self._by_copies(replace(job, round=turn, passes=("time",) if turn else job.passes))
                for name in drawn.sample(list(jobs), len(jobs)):
                    began = time.monotonic()
                    self.launcher.run(jobs[name], self.folder / name)
                    copies_s += time.monotonic() - began if name in SLOWER else 0.0
        for name in SLOWER:
            self._copy_records("base", self._baseline_of(name), of_the_worse=True)
        return copies_s

    def verdicts_on_the_same(self) -> Counter[str]:
        """What is claimed of code against its own copy: one of RUNS if there is an alarm, and the cells of CELLS."""
        found = confirm((self.folder / "base", self.folder / "same"), self.launcher, CONFIRM_S, trusted=True)
        _print_rows("the same", found[found["verdict"] != "same"])
        claims = Counter(CELLS[verdict] for verdict in found["verdict"] if verdict in CHANGED)
        claims[RUNS] = int(found["verdict"].isin(ALARMS).any())
        return claims

    def slower_is_found(self, name: str) -> bool:
        """Whether the cell by a slower copy is found slower, among all others by the unchanged copy."""
        baseline = self._baseline_of(name)
        self._copy_records("base", baseline, of_the_worse=False)
        self._copy_records("same", name, of_the_worse=False)
        found = confirm((self.folder / baseline, self.folder / name), self.launcher, CONFIRM_S, trusted=True)
        _print_rows(name, found[_of(found, self.worse)])
        return _is_slower(found, self.worse)

    def exact_is_found(self, name: str) -> bool:
        """Whether an exact change of the cell is found, also where the records name another machine."""
        jobs = self.worse, made_worse(self.worse, name, self.root)
        paths = [self.launcher.run(replace(job, passes=("exact",)), self.folder / "exact" / name) for job in jobs]
        base, changed = map(record.load, paths)
        here, elsewhere = compare(base, changed), compare(base, changed.assign(cpu="another machine's"))
        _, counter = EXACT[name]
        return _is_slower(here, self.worse, counter) and _is_slower(elsewhere, self.worse, counter)

    def _by_copies(self, job: Job) -> dict[str, Job]:
        """A job by the code and by its copies, under the names of the folders of their records."""
        jobs = {"base": job, "same": unchanged(job, self.root)}
        if _is_of(job, self.worse):
            jobs |= {name: made_worse(job, name, self.root) for name in SLOWER}
        return jobs

    def _baseline_of(self, name: str) -> str:
        """The folder of the baseline that a slower copy is compared with."""
        return f"{name}, base"

    def _copy_records(self, source: str, target: str, of_the_worse: bool) -> None:
        """Copy the records between folders of the run: of the cell that was made worse, or of all others."""
        for file in (self.folder / source).rglob("job.json"):
            if _is_of(read_job(file), self.worse) == of_the_worse:
                copied = self.folder / target / file.parent.name / "record.json"
                shutil.copytree(file.parent, copied.parent)
                record.write(record.read(copied) | {"look": 0}, copied)  # the copies are compared for the first time


def _nightly(folder: Path) -> Path:
    """A run folder with the cells of the nightly sweep."""
    command = [sys.executable, "-m", "harness", "+sweep=nightly", "rounds=1", f"output={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _jobs(folder: Path, trusted: bool) -> list[Job]:
    """The timed cells of a run folder whose methods can be made worse, once each."""
    jobs: dict[str, Job] = {}
    for file in sorted(folder.rglob("job.json")):
        job = replace(read_job(file), round=0, code=None)
        if job.target.startswith(f"{METHODS}.") and "time" in job.passes:
            if not trusted:
                refuse_foreign(job, file)
            cell = replace(job, passes=()).key
            jobs[cell] = max(job, jobs.get(cell, job), key=lambda job: len(job.passes))
    if not jobs:
        raise record.RecordError(
            f"{folder} holds no timed cell of a method in the package {METHODS}, with its job.json; name a run folder"
        )
    return list(jobs.values())


def _is_of(job: Job, cell: Job) -> bool:
    """Whether a job is of this cell, in whatever round, by whatever code and passes."""
    return replace(job, round=cell.round, code=cell.code, passes=cell.passes).key == cell.key


def _of(verdicts: DataFrame, cell: Job) -> Series:
    """Which of the verdicts are on this cell."""
    own = cell.fields()
    same = [
        verdicts[name].map(lambda value, name=name: canonical(name, value)) == canonical(name, own[name])
        for name in ASKED
    ]
    return pandas.concat(same, axis=1).all(axis=1)


def _is_slower(verdicts: DataFrame, cell: Job, counter: str = "") -> bool:
    """Whether the verdict on a cell is that it is slower, by a counter if one is named."""
    (row,) = verdicts[_of(verdicts, cell)].to_dict("records")
    return row["verdict"] == "slower" and counter in row["reason"]


def _print_rows(planted: str, verdicts: DataFrame) -> None:
    for _, row in verdicts.iterrows():
        print(
            f"{planted}: {row['cell']} {row['verdict']} {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
            f"p {row['p']:.2g}, {row['base_processes']} processes; {row['reason']}",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _busy(share: float) -> Iterator[None]:
    """Another process that is busy for this share of every tenth of a second."""
    program = (
        "import time\nwhile True:\n began = time.perf_counter()\n"
        f" while time.perf_counter() < began + {share / 10}: pass\n time.sleep({(1 - share) / 10})"
    )
    process = subprocess.Popen([sys.executable, "-c", program]) if share else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def _print(counts: Counter[str], cells: int, durations: list[float], load: float) -> None:
    runs = len(durations)
    title = f"{runs} runs of {cells} cells, each at first in {ROUNDS} processes of the baseline and of the candidate"
    table = Table(box=None, title=title, title_justify="left")
    for column in ("planted", "found", "of", "share", "95 % interval"):
        table.add_column(column, justify="left" if column == "planted" else "right")
    for name, count in counts.items():
        total = runs * cells if name in CELLS.values() else runs
        low, high = stats.binomtest(count, total).proportion_ci()
        table.add_row(name, str(count), str(total), f"{count / total:.3f}", f"[{low:.3f}, {high:.3f}]")
    console = Console()
    console.print(table)
    slowest = max(durations)
    console.print(
        f"A run took {sum(durations) / runs:.0f} s, {slowest:.0f} s at most; another process was busy on one "
        f"core {load:.0%} of the time."
    )
