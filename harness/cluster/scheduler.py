"""Slurm's programs: what the cluster has, submitting jobs, and what became of them.

Jobs are submitted by submitit. What it makes of their end is not used: it takes failed and pre-empted jobs for
completed ones. The state of a job comes from `squeue`, and once the job has left the queue from the accounting.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.cluster.options import Needs, Slurm
from harness.config import ConfigError

LIMIT_S = 60.0  # of one of Slurm's programs
ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"),
    "DEADLINE",
}
UNKNOWN = "UNKNOWN"  # the state of a job that is not in the queue, and has not ended in the accounting
OPTIONS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SLURM_TIME_FORMAT")  # a user's, of what Slurm's programs print
OF_MEMORY = re.compile(r"(?i)slurmstepd.*(memory limit|oom.?kill|out of memory).*")


class SchedulerError(RuntimeError):
    """One of Slurm's programs failed; its text is one line."""


@dataclass(frozen=True)
class State:
    """What Slurm says of a job."""

    name: str  # such as RUNNING or TIMEOUT
    detail: str = ""  # why it waits, or its exit status

    @property
    def ended(self) -> bool:
        """Whether the job has ended, or nobody knows of it any more."""
        return self.name in ENDED or self.name == UNKNOWN

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail not in ("", "None", "0:0") else self.name


def output_of(*command: str) -> str:
    """What one of Slurm's programs prints; raises SchedulerError where it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OPTIONS)}
    env["SLURM_BITSTR_LEN"] = "0"  # the tasks of an array are shown in full
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=env, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise SchedulerError(f"{command[0]}: {last.removeprefix(f'{command[0]}: ')}")
    return done.stdout


def check(slurm: Slurm, needs: Collection[Needs]) -> None:
    """Raise ConfigError where jobs cannot be submitted as asked, such as for more cores than any node has."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"launcher=slurm needs submitit ({error}); install it: pip install '.[slurm]'") from error
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"launcher=slurm: {program} is not found on this machine; start the sweep where Slurm's programs are, "
                "or take launcher=local"
            )
    nodes = _nodes()
    partitions = sorted({node.partition for node in nodes})
    if slurm.partition is not None and not {*slurm.partition.split(",")} <= {*partitions}:
        raise ConfigError(f"launcher.partition={slurm.partition}: there is none; choose of {', '.join(partitions)}")
    of_partition = [node for node in nodes if node.partition in (slurm.partition or node.partition).split(",")]
    most = {
        "cpus": (max(need.cpus for need in needs), max(node.cores for node in of_partition), "cores"),
        "gpus": (max(need.gpus for need in needs), max(node.gpus for node in of_partition), "GPUs"),
        "memory_gb": (slurm.memory_gb or 0, max(node.memory_gb for node in of_partition), "GB"),
        "time_min": (slurm.time_min, max(node.time_min for node in of_partition), "minutes"),
    }
    for key, (wanted, has, unit) in most.items():
        if wanted > has:
            where = "the cluster" if slurm.partition is None else f"partition {slurm.partition}"
            raise ConfigError(
                f"launcher.{key}: jobs of {wanted:g} {unit} were asked for, and {where} allows "
                f"{math.floor(1000 * has) / 1000:g} {unit} at most"
            )


@dataclass(frozen=True)
class _Node:
    """What the nodes of one kind have."""

    partition: str
    cores: int
    memory_gb: float
    gpus: int
    time_min: float


def _nodes() -> list[_Node]:
    """The kinds of nodes of the cluster; raises ConfigError where Slurm does not answer."""
    try:
        lines = output_of("sinfo", "-h", "-e", "-o", "%R|%c|%m|%G|%l").splitlines()
    except SchedulerError as error:
        raise ConfigError(
            f"launcher=slurm: {error}; does `sinfo` work in this shell? It needs a configuration (SLURM_CONF) and a "
            "controller (slurmctld)"
        ) from error
    found = []
    for line in lines:
        partition, cores, memory_mb, resources, limit = line.split("|")
        gpus = sum(map(int, re.findall(r"gpu:(?:[^:,()]+:)?(\d+)", resources)))
        memory_gb = int(memory_mb.rstrip("+")) * 2**20 / 1e9
        found.append(_Node(partition, int(cores.rstrip("+")), memory_gb, gpus, _minutes(limit)))
    if not found:
        raise ConfigError("launcher=slurm: this cluster shows no partition; ask sinfo")
    return found


def _minutes(limit: str) -> float:
    """Minutes of a time limit as Slurm shows it: `infinite`, or `days-hours:minutes:seconds`, shorter ones without."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = ([0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def submit(run: Callable[[str], None], packs: Sequence[Path], parameters: Mapping[str, Any], folder: Path) -> list[str]:
    """Submit a job for each pack, all as one array; their numbers. Each job calls `run` with the path of its pack.

    `parameters` are those of submitit's SlurmExecutor, which keeps its files in the folder. Raises SchedulerError where
    sbatch refuses.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder)
    executor.update_parameters(**parameters)
    printed = io.StringIO()  # submitit shows what sbatch prints
    try:
        with contextlib.redirect_stderr(printed):
            jobs = executor.map_array(run, list(map(str, packs)))
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in printed.getvalue().splitlines() if line.strip()] or str(error).splitlines()
        raise SchedulerError(f"sbatch refuses: {'; '.join(lines[:2])}") from error
    return [submitted.job_id for submitted in jobs]


@cache
def largest_array() -> int:
    """How many jobs an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", output_of("scontrol", "show", "config"))
    return max(1, int(found[1]) - 1) if found else 1000


def numbers(name: str) -> list[str]:
    """The numbers of the jobs of this name that are in the queue or the accounting, in order."""
    found = {*output_of("squeue", "-h", "-r", "-a", "-t", "all", "-n", name, "-o", "%i").split()}
    found |= {job for job, _ in _accounted(["--name", name, "-S", "now-30days"])}
    return sorted((number for number in found if number.isdigit() or re.fullmatch(r"\d+_\d+", number)), key=_in_order)


def _in_order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split("_")))


def states(numbers: Collection[str]) -> dict[str, State]:
    """What Slurm says of some jobs; raises SchedulerError where it does not answer."""
    arrays = sorted({number.partition("_")[0] for number in numbers})
    found: dict[str, State] = {}
    for line in output_of("squeue", "-h", "-r", "-a", "-t", "all", "-o", "%i|%T|%r", *_of_jobs(arrays)).splitlines():
        number, name, reason = line.split("|", 2)
        found[number] = State(name, reason)
    gone = [number for number in numbers if number not in found or found[number].ended]
    if gone:
        arrays = sorted({number.partition("_")[0] for number in gone})
        accounted = _accounted(["-j", ",".join(arrays)])
        found |= {number: state for number, state in accounted if number in gone and state.ended}
    return {number: found.get(number, State(UNKNOWN)) for number in numbers}


def _of_jobs(arrays: Sequence[str]) -> list[str]:
    """An option of squeue. Of a single job that it does not know any more it would make an error, of two not."""
    return ["-j", ",".join([*arrays, *(arrays if len(arrays) == 1 else [])])]


def _accounted(which: Sequence[str]) -> list[tuple[str, State]]:
    """The jobs in the accounting, with their states; none on a cluster without accounting, of which a line says so."""
    try:
        lines = output_of("sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", *which).splitlines()
    except SchedulerError as error:
        if "disabled" not in str(error) and shutil.which("sacct") is not None:
            raise  # the database may be busy
        _say_once(
            f"harness: this cluster has no accounting ({error}): a job's end is read from squeue, which forgets it "
            "after minutes"
        )
        return []
    return [
        (number, State(name.partition(" ")[0], status))
        for shown, name, status in (line.split("|") for line in lines)
        for number in _expanded(shown)
    ]


def _expanded(shown: str) -> list[str]:
    """The numbers of the jobs in a line of sacct: `7_[1-3,5%2]` are tasks of an array that have not begun."""
    array, _, tasks = shown.partition("_[")
    if not tasks:
        return [shown]
    ends = [part.partition("-") for part in tasks.rstrip("]").partition("%")[0].split(",")]
    return [f"{array}_{task}" for first, _, last in ends for task in range(int(first), int(last or first) + 1)]


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


def cancel(numbers: Collection[str]) -> None:
    """End jobs, queued and running ones. What has ended already stays so."""
    if numbers:
        output_of("scancel", "--quiet", *sorted({number.partition("_")[0] for number in numbers}))


def killed_for_memory(log: Path) -> str | None:
    """The words with which Slurm has ended a job for its memory, from what the job printed; None where it has not.

    Slurm's own state of such a job is FAILED or CANCELLED on some clusters.
    """
    try:
        printed = log.read_text(errors="replace")[-20_000:]
    except OSError:
        return None
    found = OF_MEMORY.search(printed)
    return None if found is None else found[0].strip()
