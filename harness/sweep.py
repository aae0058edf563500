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

from harness import baseline, record
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
    baseline: str | None = None  # what it is compared with
    confirm_s: float = 0.0  # seconds for more processes of cells that this leaves undecided


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
    resume = not OmegaConf.is_missing(config, "resume")
    baseline, confirm_s = plain["baseline"], plain["confirm_s"]
    if not isinstance(confirm_s, int | float) or not confirm_s >= 0:
        raise JobError(f"confirm_s={confirm_s} must be a time in seconds of at least 0")
    if baseline is not None and (not isinstance(baseline, str) or resume):
        raise JobError(f"baseline={baseline} must be git:REF, interpreter:PATH or a path, and goes without resume")
    return Cell(job, plain["rounds"], plain["workers"], resume, baseline, float(confirm_s))


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
    """Run cells that have been composed, under their names; the files of their records. See `run`.

    With a baseline that is to be measured beside them, they run on both sides, whose records have a folder each.
    """
    point_latest(output)
    workers = min((cell.workers for _, cell in cells), default=1)
    resume = any(cell.resume for _, cell in cells)
    confirm_s = max((cell.confirm_s for _, cell in cells), default=0.0)
    paths: list[Path] = []
    try:
        with ExitStack() as held:
            change = held.enter_context(baseline.beside({cell.baseline for _, cell in cells}))
            jobs = [(name, cell.job) for name, cell in ordered(cells)]
            order = [(*named, "") for named in jobs] if change is None else list(baseline.both(jobs, change))
            progress = held.enter_context(_Progress(len(order)))
            pool = ThreadPoolExecutor(workers)
            held.callback(pool.shutdown)  # last of all, when closed launchers have ended what ran
            launchers: SimpleQueue[Launcher] = SimpleQueue()
            for _ in range(workers):
                launchers.put(held.enter_context(Launcher()))

            def run_one(named: tuple[str, Job, str]) -> Path:
                name, job, side = named
                launcher = launchers.get()
                progress.begin(name)
                try:
                    return (launcher.resume if resume else launcher.run)(job, output / side)
                finally:
                    launchers.put(launcher)

            held.callback(pool.shutdown, wait=False, cancel_futures=True)
            finished = (map if workers == 1 else pool.map)(run_one, order)  # one alone can be interrupted
            for (name, _, _), path in zip(order, finished, strict=True):
                paths.append(path)
                progress.end(name, record.read(path)["status"])
            if change is not None and confirm_s > 0:
                from harness.compare.confirm import confirm

                confirm([output / side for side in baseline.SIDES], launchers.get(), confirm_s)
    except JobError as error:
        raise SystemExit(f"harness: {error}") from error
    except KeyboardInterrupt:
        print(
            f"harness: interrupted; the finished records are in {output}. Go on with resume={output}", file=sys.stderr
        )
        raise SystemExit(130) from None
    return paths


def conclude(asked: str, output: Path) -> int:
    """Compare what a run found with its baseline, print the verdicts, write them beside the records; exit status."""
    from harness.compare import compare
    from harness.compare import output as shown

    sides = [output / side for side in baseline.SIDES]
    base, candidate = sides if sides[0].is_dir() else (Path(asked), output)
    try:
        verdicts = compare(record.load(base), record.load(candidate))
    except record.RecordError as error:
        raise SystemExit(f"harness: {error}") from error
    shown.terminal(verdicts)
    (output / "verdict.md").write_text(shown.markdown(verdicts), encoding="utf-8")
    (output / "verdict.xml").write_text(shown.junit(verdicts), encoding="utf-8")
    return shown.status(verdicts)


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
        if config.baseline is not None:
            raise SystemExit(conclude(config.baseline, output))


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
