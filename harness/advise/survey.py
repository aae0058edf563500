"""Runs every method on one problem, the cheapest passes first, and ranks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.advise.advice import Advice, Survey, ordered
from harness.advise.budgets import has_budget
from harness.advise.expectation import FEWEST
from harness.advise.room import OF_THE_WHOLE
from harness.advise.trial import SCREEN, Trial
from harness.job import Job
from harness.reproduce.source import lacks
from harness.run.launcher import Launcher
from harness.run.progress import Progress
from harness.text import duration

TOP = 5  # best methods whose results are checked in all parameters


class ProblemFailure(RuntimeError):
    """The problem itself, or the reference that results are compared with, cannot be computed."""


def survey(jobs: Sequence[Job], output: Path, memory_gb: float | None = None, precision: float | None = None) -> Survey:
    """Measure and check the methods of `jobs`, which have one problem, and rank them; records are left in `output`.

    Estimates take part where a `precision` is given, with the least budget whose stated error is within it. A method
    that fails in all parameters falls to the end, and the next one is checked, until the first TOP are right
    or cannot be afforded. Raises ProblemFailure where the problem cannot be built or evaluated.
    """
    lacking = [job for job in jobs if job.code is None and job.interpreter is None and lacks(job.target)]
    with Launcher() as launcher:
        problem = launcher.problem(jobs[0], output / "problem")
        if problem["status"] != "ok":
            raise ProblemFailure(problem["message"])
        params = problem["params"]
        has_reference = jobs[0].quantity in OF_THE_WHOLE or _reference(launcher, jobs[0], params, output)
        trial = Trial(launcher, output, params, memory_gb, has_reference, precision)
        found = [trial.asked(job) for job in jobs if job not in lacking]
        found = [advice for advice in found if "mesh" not in advice.asks]  # which a script in one process has not
        found = _checked_whole(trial, _measured(trial, found), memory_gb)
    return Survey(
        advice=tuple(ordered(found, memory_gb)),
        lacking=tuple(job.method for job in lacking),
        job=jobs[0],
        params=params,
        builder_options=problem["builder_options"],
        attention=problem.get("attention"),
        memory_gb=memory_gb,
        precision=precision,
        unchecked=trial.truth.missing,
    )


def _reference(launcher: Launcher, job: Job, params: int, output: Path) -> bool:
    """Whether there is a reference in few parameters; one that takes too long says nothing against the problem."""
    few = replace(job, subset=FEWEST if params > FEWEST else job.subset, limit_s=job.limit_s * SCREEN)
    seen = launcher.reference(few, output / "problem")
    if seen["status"] not in ("ok", "timeout"):
        raise ProblemFailure(seen["message"])
    return seen["status"] == "ok"


def _measured(trial: Trial, found: Sequence[Advice]) -> list[Advice]:
    """The advice with time and peak: first of the methods of loss and theta, of which the cheapest come first.

    Estimates come last, since they are compared with the exact methods.
    """
    failed = [advice for advice in found if advice.status != "ok"]
    estimates = [advice for advice in found if advice.status == "ok" and has_budget(advice.job.method_options)]
    exact = [advice for advice in found if advice.status == "ok" and advice not in estimates]
    of_network = [advice for advice in exact if "model" in advice.asks or advice.job.quantity in OF_THE_WHOLE]
    of_loss = [advice for advice in exact if advice not in of_network]
    checked = list(_each("check", of_loss, trial.checked))
    failed += [advice for advice in checked if advice.status != "ok"]
    right = sorted((advice for advice in checked if advice.status == "ok"), key=trial.cost)
    timed = list(_each("time", right, trial.extrapolated))
    run = [*_each("run", of_network, trial.whole), *_each("estimate", estimates, trial.estimated)]
    return [*map(trial.within, [*timed, *run]), *failed]


def _checked_whole(trial: Trial, found: Sequence[Advice], memory_gb: float | None) -> list[Advice]:
    """The advice after the first TOP have been checked in all parameters."""
    found, tried = list(found), set()
    with Progress(TOP) as progress:
        while True:
            found = ordered(found, memory_gb)
            left = [
                place
                for place, advice in enumerate(found[:TOP])
                if advice.usable(memory_gb) and not advice.whole and advice.method not in tried
            ]
            if not left:
                return found
            advice = found[left[0]]
            tried.add(advice.method)
            progress.begin(f"check whole {advice.method}")
            found[left[0]] = trial.within(trial.checked_whole(advice))
            progress.end(f"check whole {advice.method}", found[left[0]].status)


def _each(verb: str, found: Sequence[Advice], step: Callable[[Advice], Advice]) -> Iterator[Advice]:
    """The advice after a step, showing how far it is."""
    with Progress(len(found)) as progress:
        for advice in found:
            progress.begin(f"{verb} {advice.method}")
            after = step(advice)
            timed = after.status == "ok" and after.time_s is not None
            progress.end(f"{verb} {advice.method}", duration(after.time_s or 0.0) if timed else after.status)
            yield after
