"""A sweep: many cells one after another, each of which ends as a record."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import filter_overrides
from omegaconf import DictConfig

from harness import program, record
from harness.cluster.options import Slurm
from harness.compare import baseline
from harness.compare.baseline import Comparison, Measured
from harness.composition import Compositions
from harness.config import ConfigError
from harness.plan import Plan, plan_of
from harness.record.identity import ASKED, JSON, PROCESS, RAN_BY, SAMPLED
from harness.run.client import LaunchError
from harness.run.folders import beside_others, point_latest
from harness.run.launcher import Launcher
from harness.run.pool import Pool

SHOWN = 3  # lost records that are named
MANY = 200  # cells that take seconds to compose, so that a line says so


def run(cells: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig], output: Path) -> list[Path]:
    """Run the cells, each given by its overrides, and show the progress; the files of their records.

    A cell that cannot be composed, or whose values cannot be used, is recorded as an error and does not stop the
    others. When interrupted, it prints how to go on.
    """
    plans: list[tuple[str, Plan]] = []
    failed: list[tuple[Sequence[str], Exception]] = []
    if len(cells) >= MANY:
        print(f"composing {len(cells)} cells", file=sys.stderr, flush=True)
    grids: dict[tuple[str, ...], list[Sequence[str]]] = {}  # cells by the keys that they set
    for overrides in cells:
        grids.setdefault(_keys(overrides), []).append(overrides)
    compositions = {keys: Compositions(grid, compose) for keys, grid in grids.items()}
    for overrides in cells:
        name = " ".join(entry for entry in filter_overrides(overrides) if not entry.startswith("+sweep="))
        try:
            plans.append((name, plan_of(compositions[_keys(overrides)].of(overrides))))
        except Exception as error:  # Hydra's, OmegaConf's and our own have no common base
            failed.append((overrides, error))
            print(f"{name}: error, {error}", file=sys.stderr)
    beside = any(plan.comparison is not None and plan.comparison.measures_baseline for _, plan in plans)
    try:
        for overrides, error in failed:
            _record_failure(overrides, error, output / "candidate" if beside else output)
    except OSError as error:
        raise SystemExit(f"harness: {error}") from error
    return run_plans(plans, output)


def _keys(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(override.partition("=")[0] for override in overrides)


def run_plans(plans: Sequence[tuple[str, Plan]], output: Path) -> list[Path]:
    """Run plans under their names; the files of their records. See `run`.

    With a baseline that is to be measured in the same run, baseline and candidate have a folder each in `output`.
    """
    point_latest(output)
    comparison = None
    try:
        comparison = _comparison(plans)
        slurm = _slurm(plans)
        program.advise(f"harness: interrupted; {baseline.how_to_go_on(comparison, output)}")
        resume = any(plan.resume for _, plan in plans)
        shared = None if slurm is None else output.resolve()  # what the nodes of a cluster see
        with baseline.changes(comparison, shared) as change, beside_others(output, resume):
            if slurm is not None:
                from harness.cluster import waiting

                return waiting.run(_measured(plans, change), slurm, output, resume, cancels=change is not None)
            return _run_all(plans, change, comparison, output)
    except ConfigError as error:
        raise SystemExit(f"harness: {error}") from error
    except OSError as error:
        raise SystemExit(f"harness: {error}; {baseline.how_to_go_on(comparison, output)}") from error


def _comparison(plans: Sequence[tuple[str, Plan]]) -> Comparison | None:
    """The one comparison of a run; raises ConfigError where its plans have several."""
    comparison, *others = {plan.comparison for _, plan in plans} or {None}
    if others:
        raise ConfigError("all cells of a run have the same baseline, confirm_s, slower and allow; sweep over others")
    return comparison


def _slurm(plans: Sequence[tuple[str, Plan]]) -> Slurm | None:
    """What all plans ask of a cluster; raises ConfigError where they ask for different things."""
    asked = [plan.slurm for _, plan in plans] or [None]
    if any(one != asked[0] for one in asked):
        raise ConfigError("all cells of a run have the same launcher; sweep over others")
    return asked[0]


def _measured(plans: Sequence[tuple[str, Plan]], change: Mapping[str, Any] | None) -> list[Measured]:
    """What is run, in its order: each round of the plans, with a baseline's `change` as baseline and as candidate."""
    jobs = [(name, plan.job) for name, plan in ordered(plans)]
    return [Measured(*named, folder="") for named in jobs] if change is None else list(baseline.in_turn(jobs, change))


def _run_all(
    plans: Sequence[tuple[str, Plan]], change: Mapping[str, Any] | None, comparison: Comparison | None, output: Path
) -> list[Path]:
    """Run plans in their order, those of a baseline with the fields in `change`; the files of their records."""
    from harness.run.progress import Progress

    runs = _measured(plans, change)
    resume = any(plan.resume for _, plan in plans)
    workers = min((plan.workers for _, plan in plans), default=1)
    paths: list[Path] = []
    elsewhere: list[Measured] = []  # cells that another harness runs, in their turn
    with Progress(len(runs)) as progress, Pool(workers) as pool:

        def run_one(measured: Measured) -> Path | None:
            with pool.launcher() as launcher:
                progress.begin(measured.name)
                start = launcher.resume if resume else launcher.run
                return start(measured.job, output / measured.folder)

        def run_last(measured: Measured) -> Path:
            with pool.launcher() as launcher:
                progress.begin(measured.name)
                return launcher.resume_after_others(measured.job, output / measured.folder)

        def finish(measured: Measured, path: Path) -> None:
            paths.append(path)
            progress.end_recorded(measured.name, path)

        for measured, path in zip(runs, pool.map(run_one, runs), strict=True):
            if path is None:
                elsewhere.append(measured)
            else:
                finish(measured, path)
        if elsewhere:
            names = "; ".join(measured.name for measured in elsewhere)
            print(f"harness: taking the records that another harness finishes: {names}", file=sys.stderr, flush=True)
        for measured, path in zip(elsewhere, pool.map(run_last, elsewhere), strict=True):
            finish(measured, path)
        if comparison is not None and comparison.confirm_s > 0:
            with pool.launcher() as launcher:
                _confirm(comparison, output, launcher)
    return paths


def lost(paths: Sequence[Path]) -> list[Path]:
    """Those files of records of a run that are gone or hold no record any more. A line names them, if there are any."""
    found = []
    for path in paths:
        try:
            record.read(path)
        except record.RecordError:
            found.append(path)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        print(
            f"harness: records that this run has written are gone or spoiled, by a method if not by a user: "
            f"{', '.join(map(str, found[:SHOWN]))}{more}; delete what is left of them, and go on with resume",
            file=sys.stderr,
        )
    return found


def _confirm(asked: Comparison, output: Path, launcher: Launcher) -> None:
    """Run undecided cells again; where that cannot be done, the verdict is on the records that there are."""
    from harness.compare.confirm import confirm

    if not asked.measures_baseline:
        print(
            f"harness: undecided cells are not run again: that needs baseline=git:REF or interpreter:PATH, and "
            f"{asked.baseline} is a path",
            file=sys.stderr,
        )
        return
    try:
        sides = [output / name for name in record.SIDES]  # which this run has made: they are trusted
        confirm(sides, launcher, asked.confirm_s, asked.slower, asked.allow, trusted=True)
    except (record.RecordError, LaunchError, OSError) as error:
        print(f"harness: undecided cells were not run again: {error}", file=sys.stderr)


def ordered(plans: Sequence[tuple[str, Plan]]) -> list[tuple[str, Plan]]:
    """Every round of every plan: round is the slowest axis, and within one the order is shuffled by the first seed."""
    order: list[tuple[str, Plan]] = []
    for number in range(max((plan.rounds for _, plan in plans), default=0)):
        within = [
            (name, dataclasses.replace(plan, job=dataclasses.replace(plan.job, round=plan.job.round + number)))
            for name, plan in plans
            if number < plan.rounds
        ]
        random.Random(f"{plans[0][1].job.seed} {number}").shuffle(within)
        order += within
    return order


def _record_failure(overrides: Sequence[str], error: Exception, output: Path) -> None:
    """Record a cell that could not be composed, with those fields of its job that its overrides name."""
    values = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    for name, key in (("problem_target", "problem._target_"), ("target", "method._target_")):
        if key in values:
            values[name] = values[key]
    of_job = {*ASKED, *RAN_BY, *SAMPLED, *PROCESS} - {*JSON}
    texts = {field.name for field in record.FIELDS if field.type == "str"} & of_job
    seen: dict[str, Any] = {name: value for name, value in values.items() if name in texts}
    cause = f" {error.__cause__}" if error.__cause__ is not None else ""
    seen |= {"status": "error", "message": f"{error}{cause}"}
    key = "not-composed-" + hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:10]
    record.write(seen, output / key / "record.json")
