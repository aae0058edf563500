"""What a configuration asks for: a job, how often it is run, and what that is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from harness.cluster.options import Slurm
from harness.compare.baseline import Comparison
from harness.composition import Composition
from harness.config import ConfigError, checked, checks, refuse_unknown, whole
from harness.job import Job


@dataclass(frozen=True)
class Plan:
    """A job, and how it is run. A field with a check is a key of the configuration."""

    job: Job
    rounds: Annotated[int, whole(1)]  # how often, each time in fresh processes
    workers: Annotated[int, whole(1)]  # cells that may run at once
    resume: bool  # whether a finished record in the output folder is taken
    comparison: Comparison | None = None
    slurm: Slurm | None = None  # what is asked of a cluster; None for processes of this machine


MISSING = "???"  # a key without a value
KEYS = {
    "problem",
    "method",
    "measure",
    "launcher",
    "output",
    "resume",
    *checks(Job),
    *checks(Plan),
    *checks(Comparison),
}


def plan_of(composed: Composition) -> Plan:
    """The plan of a composed configuration; raises ConfigError."""
    values, choices = composed.values, composed.choices
    refuse_unknown(values, KEYS)
    plan = Plan(
        job=Job.from_config(values, choices["problem"], choices["method"]),
        resume=values["resume"] != MISSING,
        comparison=Comparison.from_config(values),
        slurm=Slurm.from_config(values.get("launcher")),
        **checked(Plan, values),
    )
    _check_together(plan)
    return plan


def _check_together(plan: Plan) -> None:
    """Raise ConfigError for values that exclude each other."""
    if plan.workers > 1 and plan.job.passes != ("agreement",):
        raise ConfigError(
            f"workers={plan.workers} with passes={list(plan.job.passes)}: cells that run at once disturb each other's "
            "times and memory; take workers=1 or passes=[agreement]"
        )
    if plan.comparison is not None and plan.resume:
        raise ConfigError(
            f"baseline={plan.comparison.baseline} excludes resume: baseline and candidate are measured in one run"
        )
    if plan.slurm is not None and plan.workers > 1:
        raise ConfigError(f"workers={plan.workers} is for this machine: with launcher=slurm, set launcher.at_once")
    if plan.slurm is not None and plan.comparison is not None and plan.comparison.confirm_s > 0:
        raise ConfigError("confirm_s runs cells again on this machine: with launcher=slurm, raise rounds instead")
