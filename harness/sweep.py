"""A sweep: many cells one after another, every one ending as a row, and the report at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra.core.utils import filter_overrides
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness import record
from harness.job import Job, JobError
from harness.launch import Launcher, point_latest

MANY = 200  # cells whose composing takes seconds, so that it is told


@dataclass(frozen=True)
class Cell:
    """A cell that can be run, `rounds` times."""

    job: Job
    rounds: int
    workers: int  # cells that may run at once
    resume: bool  # take a finished record from the output folder, if it is there


def cell_of(config: DictConfig) -> Cell:
    """The cell of a composed configuration (with its hydra node); raises JobError."""
    choices = config.hydra.runtime.choices
    try:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain = OmegaConf.to_container(own, resolve=True)
    except Exception as error:
        raise JobError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(plain, dict)
    job = Job.from_config({str(key): value for key, value in plain.items()}, choices["problem"], choices["method"])
    for key in ("rounds", "workers"):
        if not isinstance(plain[key], int) or plain[key] < 1:
            raise JobError(f"{key}={plain[key]} must be a whole number of at least 1")
    if plain["workers"] > 1 and job.passes != ("agreement",):
        raise JobError(
            f"workers={plain['workers']} with passes={list(job.passes)}: cells that run at once disturb each other's "
            "times and memory; take workers=1 or passes=[agreement]"
        )
    return Cell(job, plain["rounds"], plain["workers"], resume=not OmegaConf.is_missing(config, "resume"))


def run(cells: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig], output: Path) -> None:
    """Run the cells, each given by its overrides, showing how far it is.

    A cell that cannot be composed, or whose job is at fault, is recorded as an error and does not stop the others. When
    interrupted, it exits with status 130 and says how to go on.
    """
    ready: list[tuple[str, Cell]] = []
    if len(cells) >= MANY:
        print(f"composing {len(cells)} cells", file=sys.stderr, flush=True)
    for overrides in cells:
        name = " ".join(entry for entry in filter_overrides(overrides) if not entry.startswith("+sweep="))
        try:
            ready.append((name, cell_of(compose(overrides))))
        except Exception as error:  # Hydra's, OmegaConf's and our own have no common base
            _not_composed(overrides, error, output)
            print(f"{name}: error, {error}", file=sys.stderr)
    run_cells(ready, output)


def run_cells(cells: Sequence[tuple[str, Cell]], output: Path) -> list[Path]:
    """Run cells that have been composed, under their names; the files of their records. See `run`."""
    point_latest(output)
    order = ordered(cells)
    workers = min((cell.workers for _, cell in order), default=1)
    paths: list[Path] = []
    try:
        with _Progress(len(order)) as progress, ExitStack() as held:
            pool = ThreadPoolExecutor(workers)
            held.callback(pool.shutdown)  # last of all, when closed launchers have ended what ran
            launchers: SimpleQueue[Launcher] = SimpleQueue()
            for _ in range(workers):
                launchers.put(held.enter_context(Launcher()))

            def run_one(named: tuple[str, Cell]) -> Path:
                name, cell = named
                launcher = launchers.get()
                progress.begin(name)
                try:
                    return (launcher.resume if cell.resume else launcher.run)(cell.job, output)
                finally:
                    launchers.put(launcher)

            held.callback(pool.shutdown, wait=False, cancel_futures=True)
            finished = (map if workers == 1 else pool.map)(run_one, order)  # one alone can be interrupted
            for (name, _), path in zip(order, finished, strict=True):
                paths.append(path)
                progress.end(name, record.read(path)["status"])
    except KeyboardInterrupt:
        print(
            f"harness: interrupted; the finished records are in {output}. Go on with resume={output}", file=sys.stderr
        )
        raise SystemExit(130) from None
    return paths


def ordered(cells: Sequence[tuple[str, Cell]]) -> list[tuple[str, Cell]]:
    """Every round of every cell: round is the slowest axis, and within one the order is shuffled by the first seed."""
    order: list[tuple[str, Cell]] = []
    for number in range(max((cell.rounds for _, cell in cells), default=0)):
        within = [
            (name, dataclasses.replace(cell, job=dataclasses.replace(cell.job, round=cell.job.round + number)))
            for name, cell in cells
            if number < cell.rounds
        ]
        random.Random(f"{cells[0][1].job.seed} {number}").shuffle(within)
        order += within
    return order


def _not_composed(overrides: Sequence[str], error: Exception, output: Path) -> None:
    """Record a cell whose configuration is at fault, with those job fields that its overrides name."""
    pairs = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    named = {field.name for field in record.FIELDS if field.type == "str"}
    named -= {"problem_options", "method_options", "measure", "status"}
    seen: dict[str, Any] = {name: value for name, value in pairs.items() if name in named}
    cause = f" {error.__cause__}" if error.__cause__ is not None else ""
    seen |= {"status": "error", "message": f"{error}{cause}"}
    key = "not-composed-" + hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:10]
    record.write(seen, output / key / "record.json")


class _Progress:
    """One live line on a terminal: done/total, what runs now, time left; elsewhere a line for each finished cell.

    Nothing for a single cell.
    """

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal or total < 2,
        )
        self._task = self._bar.add_task("", total=total)
        self._total, self._done, self._began = total, 0, time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        self._bar.update(self._task, description=name)

    def end(self, name: str, status: str) -> None:
        self._done += 1
        self._bar.advance(self._task)
        if self._total > 1 and not self._console.is_terminal:
            left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
            line = f"{self._done}/{self._total} {name}: {status}, about {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)


class Output(Callback):
    """The output folder: there before the first cell, whatever launcher runs it, and reported on after a sweep."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a single cell cannot be made."""
        _make(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a sweep cannot be made."""
        _make(config, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table, write the report beside the records, and exit with 1 where no cell is ok."""
        from harness import report

        output = Path(config.hydra.sweep.dir)
        frame = record.load(output)
        report.terminal(frame)
        report.write(frame, output / "report")
        print(f"records and report: {output}")
        if not (frame["status"] == "ok").any():
            raise SystemExit(1)


def _make(config: DictConfig, output: Path) -> None:
    if not OmegaConf.is_missing(config, "resume"):
        if Path(config.resume) != output:
            raise SystemExit(f"harness: resume={config.resume} and output={output} are two folders; give resume alone")
        if not output.is_dir():
            raise SystemExit(f"harness: resume={output} is no run folder; name one, or leave it out to start a new run")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / ".writable").touch()
        (output / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise SystemExit(f"harness: output={output} cannot be written to: {error}; name another folder") from error
