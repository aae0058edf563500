"""A sweep: many cells one after another, every one ending as a row, and the report at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
import traceback
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
from harness.compare import baseline
from harness.compare.baseline import Comparison
from harness.job import Job, JobError
from harness.run.client import LaunchError
from harness.run.folders import point_latest
from harness.run.launcher import Launcher

MANY = 200  # cells whose composing takes seconds, so that it is told


@dataclass(frozen=True)
class Cell:
    """A cell that can be run, `rounds` times."""

    job: Job
    rounds: int
    workers: int  # cells that may run at once
    resume: bool  # take a finished record from the output folder, if it is there
    comparison: Comparison | None = None


def cell_of(config: DictConfig) -> Cell:
    """The cell of a composed configuration (with its hydra node); raises JobError."""
    choices = config.hydra.runtime.choices
    try:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain = OmegaConf.to_container(own, resolve=True)
    except Exception as error:
        raise JobError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(plain, dict)
    plain = {str(key): value for key, value in plain.items()}
    job = Job.from_config(plain, choices["problem"], choices["method"])
    for key in ("rounds", "workers"):
        if not isinstance(plain[key], int) or plain[key] < 1:
            raise JobError(f"{key}={plain[key]} must be a whole number of at least 1")
    if plain["workers"] > 1 and job.passes != ("agreement",):
        raise JobError(
            f"workers={plain['workers']} with passes={list(job.passes)}: cells that run at once disturb each other's "
            "times and memory; take workers=1 or passes=[agreement]"
        )
    resume = not OmegaConf.is_missing(config, "resume")
    comparison = Comparison.of(plain)
    if comparison is not None and resume:
        raise JobError(f"baseline={comparison.baseline} goes without resume: both sides are measured in one run")
    return Cell(job, plain["rounds"], plain["workers"], resume, comparison)


def run(cells: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig], output: Path) -> None:
    """Run the cells, each given by its overrides, showing how far it is.

    A cell that cannot be composed, or whose job is at fault, is recorded as an error and does not stop the others. When
    interrupted, it exits with status 130 and says how to go on.
    """
    ready: list[tuple[str, Cell]] = []
    failed: list[tuple[Sequence[str], Exception]] = []
    if len(cells) >= MANY:
        print(f"composing {len(cells)} cells", file=sys.stderr, flush=True)
    for overrides in cells:
        name = " ".join(entry for entry in filter_overrides(overrides) if not entry.startswith("+sweep="))
        try:
            ready.append((name, cell_of(compose(overrides))))
        except Exception as error:  # Hydra's, OmegaConf's and our own have no common base
            failed.append((overrides, error))
            print(f"{name}: error, {error}", file=sys.stderr)
    beside = any(cell.comparison is not None and cell.comparison.beside for _, cell in ready)
    for overrides, error in failed:
        _not_composed(overrides, error, output / "candidate" if beside else output)
    run_cells(ready, output)


def run_cells(cells: Sequence[tuple[str, Cell]], output: Path) -> list[Path]:
    """Run cells that have been composed, under their names; the files of their records. See `run`.

    With a baseline that is to be measured beside them, they run on both sides, whose records have a folder each.
    """
    from harness.run.progress import Progress

    point_latest(output)
    workers = min((cell.workers for _, cell in cells), default=1)
    resume = any(cell.resume for _, cell in cells)
    comparison, *others = {cell.comparison for _, cell in cells} or {None}
    paths: list[Path] = []
    try:
        if others:
            raise JobError("all cells of a run have the same baseline, confirm_s, slower and allow; sweep over others")
        with ExitStack() as held:
            change = held.enter_context(baseline.beside(comparison))
            jobs = [(name, cell.job) for name, cell in ordered(cells)]
            order = [(*named, "") for named in jobs] if change is None else list(baseline.both(jobs, change))
            progress = held.enter_context(Progress(len(order)))
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
            if comparison is not None and comparison.confirm_s > 0:
                _confirm(comparison, output, launchers.get())
    except JobError as error:
        raise SystemExit(f"harness: {error}") from error
    except KeyboardInterrupt:
        go_on = f"Go on with resume={output}"
        if comparison is not None:
            sides = f"{output}/baseline {output}/candidate" if comparison.beside else f"{comparison.baseline} {output}"
            go_on = f"Compare them: python -m harness.compare {sides}"
        print(f"harness: interrupted; the finished records are in {output}. {go_on}", file=sys.stderr)
        raise SystemExit(130) from None
    return paths


def _confirm(asked: Comparison, output: Path, launcher: Launcher) -> None:
    """More processes for what is undecided; where they cannot be had, the verdict will be on those that there are."""
    from harness.compare.confirm import confirm

    if not asked.beside:
        print(
            f"harness: undecided cells are not run again: that needs baseline=git:REF or interpreter:PATH, and "
            f"{asked.baseline} is a path",
            file=sys.stderr,
        )
        return
    try:
        confirm([output / side for side in record.SIDES], launcher, asked.confirm_s, asked.slower, asked.allow)
    except (record.RecordError, LaunchError, OSError) as error:
        print(f"harness: undecided cells were not run again: {error}", file=sys.stderr)


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
    targets = {"problem_target": "problem._target_", "target": "method._target_"}
    pairs |= {name: pairs[key] for name, key in targets.items() if key in pairs}
    named = {field.name for field in record.FIELDS if field.type == "str"}
    named -= {"problem_options", "method_options", "measure", "status"}
    seen: dict[str, Any] = {name: value for name, value in pairs.items() if name in named}
    cause = f" {error.__cause__}" if error.__cause__ is not None else ""
    seen |= {"status": "error", "message": f"{error}{cause}"}
    key = "not-composed-" + hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:10]
    record.write(seen, output / key / "record.json")


class Output(Callback):
    """The output folder: there before the first cell, whatever launcher runs it, and reported on after a sweep."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a single cell cannot be made."""
        _make(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a sweep cannot be made."""
        _make(config, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table and the verdict, and write the report beside the records.

        Exits with 1 where no cell is ok, or as `baseline.conclude` says. Hydra would make a warning of an exception.
        """
        try:
            status = _conclude(config, Path(config.hydra.sweep.dir))
        except JobError as error:
            raise SystemExit(f"harness: {error}") from error
        except Exception:
            traceback.print_exc()
            status = 1 if config.baseline is None else 3
        if status:
            raise SystemExit(status)


def _conclude(config: DictConfig, output: Path) -> int:
    """The table, the report and the verdict; the exit status."""
    from harness.analysis.table import Analysis
    from harness.report.files import write
    from harness.report.terminal import terminal

    asked = OmegaConf.to_container(OmegaConf.masked_copy(config, ["baseline", "confirm_s", "slower", "allow"]))
    assert isinstance(asked, dict)
    comparison = Comparison.of({str(key): value for key, value in asked.items()})
    status = 0
    try:
        beside = comparison is not None and comparison.beside
        analysis = Analysis(record.load(output / "candidate" if beside else output))
        terminal(analysis)
        write(analysis, output / "report")
        print(f"records and report: {output}")
        if comparison is None and not (analysis.frame["status"] == "ok").any():
            status = 1
    except Exception:  # whatever is wrong with a report, the verdict is still to come
        if comparison is None:
            raise
        traceback.print_exc()
        status = 3
    return status if comparison is None else baseline.conclude(comparison, output) or status


def _make(config: DictConfig, output: Path) -> None:
    if not OmegaConf.is_missing(config, "resume"):
        if Path(config.resume) != output:
            raise SystemExit(f"harness: resume={config.resume} and output={output} are two folders; give resume alone")
        if not output.is_dir():
            raise SystemExit(f"harness: resume={output} is no run folder; name one, or leave it out to start a new run")
        if config.baseline is not None:
            raise SystemExit(f"harness: resume={output} goes without baseline: both sides are measured in one run")
    if config.baseline is not None and any((output / side).exists() for side in record.SIDES):
        raise SystemExit(f"harness: output={output} holds a comparison already; name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / ".writable").touch()
        (output / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise SystemExit(f"harness: output={output} cannot be written to: {error}; name another folder") from error
