"""Where a job of Slurm runs: its node, its time, and whether it is alone there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from harness.cluster.scheduler import SchedulerError, output_of
from harness.job import Job

LOOK_S = 10.0  # between two looks for other jobs: the controller serves the whole cluster
ENDING_S = 1.0  # within which all processes of a job have the signal that ends it
MARGIN_S = 20.0  # before the end of the job's time, in which a record can still be written


class Place:
    """This job of Slurm."""

    def __init__(self) -> None:
        self.job = _job_id(os.environ)
        self.node = os.environ.get("SLURMD_NODENAME")
        self.attempt = 1  # of the cell that runs
        self._shown = _shown()
        self._is_whole = "OverSubscribe=NO" in self._shown.split()  # whether the job has its nodes for itself
        self._is_shared: bool | None = None  # by the last look; None where Slurm does not answer
        self._looked = -LOOK_S

    def left_s(self) -> float | None:
        """Seconds until a cell must end, so that its record can still be written; None where this is not known."""
        try:
            end = datetime.fromisoformat(re.findall(r"EndTime=(\S+)", self._shown)[0])
        except (IndexError, ValueError):
            return None
        return end.timestamp() - time.time() - MARGIN_S

    def look(self) -> None:
        """See whether another job runs on this node, if the last look is not recent."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            running = output_of("squeue", "-h", "-a", "-w", str(self.node), "-t", "RUNNING", "-o", "%A").split()
        except SchedulerError:
            self._is_shared = None
            return
        self._is_shared = any(number != os.environ.get("SLURM_JOB_ID") for number in running)

    def fields(self, job: Job, seen: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a record that say where it was measured, for the fields `seen` of a job's cell.

        Of a cell that failed it waits whether Slurm is ending the job: the signal may have come to the cell first.
        """
        if seen["status"] in ("crashed", "error", "oom"):
            time.sleep(ENDING_S)
        before, looked = self._is_shared, self._looked
        self.look()
        shared = before or self._is_shared  # where the cell began, or where it ended
        if not shared and not self._is_whole and self._looked == looked:
            shared = None  # a job may have begun since the last look
        remarks = ["another job ran on this node meanwhile"] if shared else []
        cores = len(os.sched_getaffinity(0))
        needed = job.threads * job.processes
        if cores < needed:
            shared = True
            remarks.append(f"the job has {cores} of the {needed} cores that its threads need; raise launcher.cpus")
        found: dict[str, Any] = {"node": self.node, "slurm_job": self.job, "co_scheduled": shared}
        if remarks:
            found["message"] = "; ".join([*filter(None, [seen.get("message")]), *remarks])
        if self.attempt > 1:
            found["attempt"] = self.attempt
        return found


def _shown() -> str:
    """What Slurm shows of this job; nothing where it does not answer."""
    try:
        return output_of("scontrol", "-o", "show", "job", os.environ["SLURM_JOB_ID"])
    except (SchedulerError, KeyError):
        return ""


def _job_id(env: Mapping[str, str]) -> str:
    """The job's number as Slurm's programs show it: that of an array with the task, or a job's own."""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]
