"""Which record in a run folder is that of a cell as its code, versions and device are today."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.record.sources import superseded
from harness.run.folders import folders_of

# Fields of a job on which the hash of its problem depends, and those on which the rest of its identity does.
OF_PROBLEM = ("problem_target", "problem_texts", "interpreter", "code")
OF_METHOD = ("target", "method_options", "batches", "device", "interpreter", "code")

Fields = dict[str, Any]  # of a record


class Identities:
    """The hashes of the sources of methods and problems, with the versions and the device.

    `ask` runs the pass `identity` of a job in a folder, and returns its fields. It runs once for each problem and for
    each method, not for each combination: the hash of a problem is taken from the answer for one job, the other fields
    from that for another. It runs again after an answer that lacks them, such as that of a pass that ran out of time.
    """

    def __init__(self, ask: Callable[[Job, Path], Fields]) -> None:
        self._ask = ask
        self._problem_hashes: dict[str, str] = {}
        self._of_methods: dict[str, Fields] = {}  # with some problem

    def of(self, job: Job) -> Fields:
        """The fields of a job that identify it."""
        problem, method = job.text_of(OF_PROBLEM), job.text_of(OF_METHOD)
        if problem not in self._problem_hashes or method not in self._of_methods:
            seen = self._asked(job)
            if "problem_hash" not in seen:
                return seen
            self._problem_hashes[problem] = seen["problem_hash"]
            self._of_methods[method] = seen
        return self._of_methods[method] | {"problem_hash": self._problem_hashes[problem]}

    def _asked(self, job: Job) -> Fields:
        """The fields of the pass, in a temporary folder; none where it damages that. The cell's may be damaged."""
        with tempfile.TemporaryDirectory(prefix="harness-identity-", ignore_cleanup_errors=True) as folder:
            try:
                return self._ask(job, Path(folder))
            except record.StorageError:
                return {}

    def finished(self, job: Job, output: Path, anywhere: bool = False) -> Fields | None:
        """The record, with its `path`, of a cell in `output` that is of the code, the versions and the device of today.

        With `anywhere` it may be of another machine, so that this one needs no GPU.

        A record that another one has superseded does not count, even where its code is today's again.
        """
        found = []
        for folder in folders_of(output, job.key):
            with contextlib.suppress(record.RecordError):  # interrupted, or running
                found.append(record.read(folder / "record.json") | {"path": str(folder / "record.json")})
        replaced = superseded(found)
        for seen in found:
            if seen["path"] in replaced:
                continue
            now = self.of(replace(job, device="cpu") if anywhere else job)
            if all(seen[name] == now.get(name) for name in _identifying(seen, anywhere)):
                return seen
        return None


def _identifying(seen: Mapping[str, Any], anywhere: bool) -> list[str]:
    """The fields in which a record must agree with `Identities.of`, to be of the same code, versions and device."""
    fields = ["method_hash", "packages", "torch", *([] if anywhere else ["cpu", "gpu"])]
    return fields if seen["problem_hash"] is None else [*fields, "problem_hash"]
