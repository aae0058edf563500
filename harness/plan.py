"""What a configuration asks for: a job, how often it is run, and what that is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from omegaconf import DictConfig, OmegaConf

from harness.compare.baseline import Comparison
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


KEYS = {"problem", "method", "measure", "output", "resume", *checks(Job), *checks(Plan), *checks(Comparison)}


def plan_of(config: DictConfig) -> Plan:
    """The plan of a composed configuration (with its hydra node); raises ConfigError."""
    values = plain_values(config)
    refuse_unknown(values, KEYS)
    choices = config.hydra.runtime.choices
    plan = Plan(
        job=Job.from_config(values, choices["problem"], choices["method"]),
        resume=not OmegaConf.is_missing(config, "resume"),
        comparison=Comparison.from_config(values),
        **checked(Plan, values),
    )
    _check_together(plan)
    return plan


def plain_values(config: DictConfig) -> dict[str, object]:
    """The values of a composed configuration without its hydra node; raises ConfigError."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        values = OmegaConf.to_container(own, resolve=True)
    except Exception as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


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
