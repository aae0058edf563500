"""The keys `launcher.NAME` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from harness.config import Check, checked, checks, number, or_null, refuse_unknown, text, whole
from harness.job import Job

NAME = or_null(text("a name"), "the cluster's default")
FLAG = Check(lambda value: isinstance(value, bool), "must be true or false")
OURS = ("job-name", "array", "output", "error")  # options of sbatch


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name.replace("_", "-") not in OURS and isinstance(option, str | int | float | None)
        for name, option in value.items()
    )


OPTIONS = Check(
    _are_options,
    "must be options of sbatch with their values, such as {constraint: a100}, without "
    f"{', '.join(OURS)}, which the harness sets itself",
)


@dataclass(frozen=True)
class Slurm:
    """What is asked of Slurm for each job. A field with a check is a key of the configuration."""

    partition: Annotated[str | None, NAME]
    account: Annotated[str | None, NAME]
    qos: Annotated[str | None, NAME]
    gpus: Annotated[int | None, or_null(whole(0), "as many as the device needs")]
    cpus: Annotated[int | None, or_null(whole(1), "as many as the threads of all processes")]
    memory_gb: Annotated[
        float | None, or_null(number("a size in GB above 0", lambda size: size > 0), "all, or the cluster's default")
    ]
    time_min: Annotated[int, whole(1)]
    pack: Annotated[int, whole(1)]  # cells of a job, at least
    at_once: Annotated[int, whole(1)]  # jobs of an array that run at once
    exclusive: Annotated[bool, FLAG]  # whole nodes
    sbatch: Annotated[dict[str, Any] | None, or_null(OPTIONS, "none")]  # further options of sbatch

    @classmethod
    def from_config(cls, values: Mapping[str, Any] | None) -> Slurm | None:
        """Check the values of the configuration's `launcher`; None for `local`, which has none. Raises ConfigError."""
        if not values:
            return None
        refuse_unknown(values, checks(cls), "launcher.")
        return cls(**checked(cls, values, "launcher."))

    def needs(self, job: Job) -> Needs:
        """What a job of Slurm must have to run this benchmark cell."""
        kind, _, index = job.device.partition(":")
        gpus = 0 if kind == "cpu" else int(index or 0) + job.processes
        return Needs(
            cpus=job.threads * job.processes if self.cpus is None else self.cpus,
            gpus=gpus if self.gpus is None else self.gpus,
        )

    def parameters(self, needs: Needs, node: str | None = None) -> dict[str, Any]:
        """The parameters of submitit's SlurmExecutor for an array of jobs, all on one node if it is given."""
        # In units of 2**20 bytes. Slurm takes 0 for all memory of the node.
        memory = None if self.memory_gb is None else f"{max(1, int(self.memory_gb * 1e9 / 2**20))}M"
        further: dict[str, Any] = {"requeue": True, **(self.sbatch or {})}
        if node is not None:
            further["nodelist"] = node
        optional = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gpus_per_node": needs.gpus or None,
            "exclusive": self.exclusive or None,
            "mem": "0" if memory is None and self.exclusive else memory,
        }
        return {name: value for name, value in optional.items() if value is not None} | {
            "time": self.time_min,
            "cpus_per_task": needs.cpus,
            "array_parallelism": self.at_once,
            "use_srun": False,  # a step of its own would be given fewer cores than the job has
            "additional_parameters": {
                name: value for name, value in further.items() if value is not None and value is not False
            },
        }


@dataclass(frozen=True)
class Needs:
    """What a job must have."""

    cpus: int
    gpus: int
