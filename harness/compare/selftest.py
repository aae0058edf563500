"""How often the verdict is wrong on this machine: code against a copy of itself, and against copies made worse.

Every run is a whole one, of fresh processes: all cells by the code and by its copy, in turn, and one cell, each in its
turn, by copies in which every call is slower by 5, 10 or 20 %, makes one more copy of its result, or one more operator
call; these two count as found only if they also are where the records say that another machine made them. What is
printed are the shares of runs, with their 95 % intervals (Clopper and Pearson 1934).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas
from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from scipy import stats

from harness import record
from harness.compare.confirm import confirm
from harness.compare.verdicts import ALARMS, compare
from harness.job import QUANTITIES, Job
from harness.record.identity import ASKED, canonical
from harness.run.launcher import Launcher

ROUNDS = 10
CONFIRM_S = 300.0  # of each comparison, as in conf/sweep/nightly.yaml
SLOWER = {"5 % slower": 1.05, "10 % slower": 1.10, "20 % slower": 1.20}
# What is done once more to every result, and the counter that must tell.
EXACT = {"one more copy": ("clone", "allocations"), "one more operator call": ("detach", "operations")}
RUNS = "the same: runs with an alarm"
CHANGED = ("broken", "slower", "faster", "undecided")  # verdicts on the same code that claim too much or too little
METHODS = "methods"  # the package whose copies are made worse
TAIL = """

def _planted(function):
    import functools
    import time

    import torch
    from torch.utils._pytree import tree_map

    def clock():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    @functools.wraps(function)
    def worse(*args, **kwargs):
        began = clock()
        result = function(*args, **kwargs)
        until = began + {ratio} * (clock() - began)
        while time.perf_counter() < until:
            pass
        return {result}

    return worse


for _name in {names}:
    if _name in globals():
        globals()[_name] = _planted(globals()[_name])
"""


def selftest(runs: int, load: float, cells: Path | None = None) -> int:
    """Measure and print; `cells` is a run folder whose cells are taken, by default those of `+sweep=nightly`.

    `load` is the share of its time in which a process beside keeps one core busy. Returns the exit status.
    """
    counts = dict.fromkeys((RUNS, *(f"the same: cells {name}" for name in CHANGED), *SLOWER, *EXACT), 0)
    durations = []
    with tempfile.TemporaryDirectory() as temporary, _busy(load), Launcher() as launcher:
        root = Path(temporary)
        jobs = _jobs(cells or _nightly(root / "cells"))
        _copy(root / "same" / METHODS)
        for name, ratio in SLOWER.items():
            _copy(root / _folder(name) / METHODS, ratio)
        for name, (operator, _) in EXACT.items():
            _copy(root / _folder(name) / METHODS, 1.0, operator)
        for number in range(runs):
            folder, worse = root / str(number), jobs[number % len(jobs)]
            took_s = _measure(launcher, root, folder, jobs, worse, number)
            for name in SLOWER:
                _copy_cells(folder / "base", folder / f"{name}, base", worse, its=True)
            began = time.monotonic()
            found = confirm((folder / "base", folder / "same"), launcher, CONFIRM_S)
            durations.append(took_s + time.monotonic() - began)
            _print_rows("the same", found[found["verdict"] != "same"])
            counts[RUNS] += bool(found["verdict"].isin(ALARMS).any())
            for name in CHANGED:
                counts[f"the same: cells {name}"] += int((found["verdict"] == name).sum())
            for name in SLOWER:
                sides = folder / f"{name}, base", folder / name
                for source, side in zip((folder / "base", folder / "same"), sides, strict=True):
                    _copy_cells(source, side, worse, its=False)
                found = confirm(sides, launcher, CONFIRM_S)
                _print_rows(name, found[_of(found, worse)])
                counts[name] += _slower(found, worse)
            for name in EXACT:
                counts[name] += _exact_is_found(launcher, root, folder / "exact", worse, name)
            print(f"run {number + 1}/{runs}: {counts}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    _print(counts, runs, len(jobs), durations, load)
    return 0


def _measure(launcher: Launcher, root: Path, folder: Path, jobs: Sequence[Job], worse: Job, seed: int) -> float:
    """ROUNDS rounds of all jobs by the code and by its copy, in turn, and of one by slower copies.

    As in a nightly run all passes but the time are only run in the first round. Returns the seconds that the code and
    its copy took.
    """
    drawn, took_s = random.Random(seed), 0.0
    for turn in range(ROUNDS):
        for job in drawn.sample(jobs, len(jobs)):
            job = replace(job, round=turn, passes=("time",) if turn else job.passes)
            sides = {"base": job, "same": replace(job, code=str(root / "same"))}
            if _is(job, worse):
                sides |= {name: _made_worse(job, name, root) for name in SLOWER}
            for side in drawn.sample(list(sides), len(sides)):
                began = time.monotonic()
                launcher.run(sides[side], folder / side)
                took_s += time.monotonic() - began if side not in SLOWER else 0.0
    return took_s


def _folder(name: str) -> str:
    """The name of the folder whose methods are worse in this way."""
    return re.sub("[^0-9a-z]+", "_", name)


def _made_worse(job: Job, name: str, root: Path) -> Job:
    return replace(job, code=str(root / _folder(name)))


def _nightly(folder: Path) -> Path:
    command = [sys.executable, "-m", "harness", "+sweep=nightly", "rounds=1", f"output={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _jobs(folder: Path) -> list[Job]:
    """The timed cells of a run folder whose methods can be made worse, once each."""
    found = (
        replace(Job.from_dict(json.loads(file.read_text())), round=0, code=None)
        for file in sorted(folder.rglob("job.json"))
    )
    jobs: dict[str, Job] = {}
    for job in found:
        if job.target.startswith(f"{METHODS}.") and "time" in job.passes:
            cell = replace(job, passes=()).key
            jobs[cell] = max(job, jobs.get(cell, job), key=lambda job: len(job.passes))
    if not jobs:
        raise record.RecordError(
            f"{folder} holds no timed cell of a method in the package {METHODS}, with its job.json; name a run folder"
        )
    return list(jobs.values())


def _copy(package: Path, ratio: float | None = None, operator: str = "") -> None:
    """A copy of the methods, each call slower by a ratio, with an operator of torch called on its result."""
    found = importlib.util.find_spec(METHODS)
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.rglob("*.py") if ratio is not None else ():
        result = f"tree_map(torch.{operator}, result)" if operator else "result"
        with file.open("a") as stream:
            stream.write(TAIL.format(ratio=ratio, result=result, names=QUANTITIES))


def _copy_cells(source: Path, target: Path, worse: Job, its: bool) -> None:
    """Copy the cells of a run folder, those of the cell that was made worse or all others."""
    for file in source.rglob("job.json"):
        if _is(Job.from_dict(json.loads(file.read_text())), worse) == its:
            shutil.copytree(file.parent, target / file.parent.name)


def _exact_is_found(launcher: Launcher, root: Path, folder: Path, worse: Job, name: str) -> bool:
    """Whether an exact change of a cell is found, also where another machine is said to have run it."""
    jobs = worse, _made_worse(worse, name, root)
    paths = [launcher.run(replace(job, passes=("exact",)), folder / name) for job in jobs]
    base, changed = map(record.load, paths)
    told = [compare(base, seen) for seen in (changed, changed.assign(cpu="another machine's"))]
    return all(_slower(found, worse, EXACT[name][1]) for found in told)


def _is(job: Job, cell: Job) -> bool:
    """Whether it is of this cell, in whatever round, by whatever code and passes."""
    return replace(job, round=cell.round, code=cell.code, passes=cell.passes).key == cell.key


def _of(verdicts: DataFrame, cell: Job) -> Series:
    """Which of the verdicts are on this cell."""
    own = cell.fields()
    same = [
        verdicts[name].map(lambda value, name=name: canonical(name, value)) == canonical(name, own[name])
        for name in ASKED
    ]
    return pandas.concat(same, axis=1).all(axis=1)


def _slower(verdicts: DataFrame, worse: Job, counter: str = "") -> bool:
    """Whether the verdict on the cell that was made worse is that it is slower, by a counter if one is named."""
    (row,) = verdicts[_of(verdicts, worse)].to_dict("records")
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
    """A process beside that is busy for this share of every tenth of a second."""
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


def _print(counts: dict[str, int], runs: int, cells: int, durations: list[float], load: float) -> None:
    table = Table(
        box=None, title=f"{runs} runs of {cells} cells, {ROUNDS} processes a side at first", title_justify="left"
    )
    for column in ("planted", "found", "of", "share", "95 % interval"):
        table.add_column(column, justify="left" if column == "planted" else "right")
    for name, count in counts.items():
        total = runs * cells if "cells" in name else runs
        low, high = stats.binomtest(count, total).proportion_ci()
        table.add_row(name, str(count), str(total), f"{count / total:.3f}", f"[{low:.3f}, {high:.3f}]")
    console = Console()
    console.print(table)
    slowest = max(durations)
    console.print(
        f"A run took {sum(durations) / runs:.0f} s, {slowest:.0f} s at most; another process was busy on one "
        f"core {load:.0%} of the time."
    )
