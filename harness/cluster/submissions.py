"""The arrays of jobs of a run, each in a numbered folder of RUN/slurm."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from harness import record
from harness.cluster import job, packs, scheduler
from harness.cluster.options import Needs, Slurm
from harness.cluster.packs import Journal, Pack, identity
from harness.cluster.scheduler import UNKNOWN, SchedulerError, State
from harness.compare.baseline import Measured
from harness.run.folders import make

NOT_THERE = ("NODE_FAIL", "BOOT_FAIL", "CANCELLED", UNKNOWN)  # states after which another node may run the rest


class Task:
    """A pack, and the job that runs it. `own` are those of its cells whose records it is to give."""

    def __init__(self, number: str, file: Path, pack: Pack) -> None:
        self.number = number
        self.pack = pack
        self.own = set(map(identity, pack.cells))
        self.unseen = 0  # times one after another that Slurm did not know of the job
        self.journal = Journal(file)
        self.log = file.parent / "submitit" / f"{number}_0_log.err"  # what the job prints to its standard error

    def keep(self, wanted: Collection[str]) -> None:
        """Keep of its own cells the wanted ones that it has not recorded yet."""
        self.journal.follow()
        self.own &= {*wanted} - {identity(self.pack.cells[at]) for at in self.journal.records}

    def attempt(self, at: int) -> int:
        """`packs.attempt` of a cell of the pack."""
        return packs.attempt(self.pack, self.journal, at)

    def node(self, state: State) -> str | None:
        """The node on which the rest of the pack belongs, since the job has ended there in this state; None for any."""
        if state.name in NOT_THERE:
            return None
        for path in reversed(self.journal.records.values()):
            with contextlib.suppress(record.RecordError):
                return record.read(path)["node"]
        return self.pack.node

    @property
    def failed_starts(self) -> int:
        """How many jobs of the pack, with this one, have ended before a cell began."""
        return 0 if self.journal.begun else self.pack.failed_starts + 1

    @property
    def is_alone(self) -> bool:
        """Whether the job has run a single cell."""
        return len({*self.journal.begun}) == 1

    @property
    def left(self) -> list[int]:
        """The places of its own cells that the job has not recorded."""
        cells = enumerate(self.pack.cells)
        return [at for at, cell in cells if at not in self.journal.records and identity(cell) in self.own]


class Submissions:
    """The arrays of jobs of a run. Its jobs have a name by which Slurm finds them, should this process be killed."""

    def __init__(self, run: Path, slurm: Slurm) -> None:
        self._folder = run.resolve() / "slurm"
        self._slurm = slurm
        self._name = f"harness-{hashlib.sha256(str(self._folder).encode()).hexdigest()[:10]}"
        self._queue: dict[tuple[Needs, str | None], list[Pack]] = {}  # what is to be submitted, by needs and node

    def latest(self, wanted: Collection[str]) -> list[Task]:
        """The latest job of each of these cells (see `packs.identity`) that was submitted. Raises RecordError."""
        found: list[Task] = []
        open_cells = {*wanted}
        for folder in reversed(self._arrays()):
            numbers = self._numbers(folder)
            for file in folder.glob("[0-9]*.json"):
                number = numbers.get(int(file.stem))
                if number is None:
                    continue
                task = Task(number, file, packs.read(file))
                task.keep(open_cells)
                open_cells -= task.own
                found += [task] if task.own else []
        return found

    def numbers(self) -> list[str]:
        """The numbers of all jobs of the run, also of those whose submission was interrupted."""
        return [number for folder in self._arrays() for number in self._numbers(folder).values()]

    def _arrays(self) -> list[Path]:
        """The folders of the arrays, in their order."""
        folders = (folder for folder in self._folder.glob("[0-9]*") if folder.name.isdecimal())
        return sorted(folders, key=lambda folder: int(folder.name))

    def _numbers(self, folder: Path) -> dict[int, str]:
        """The job of each pack of an array, by the pack's number."""
        try:
            known = json.loads(record.content(folder / "ids.json"))["jobs"]
        except (OSError, ValueError, KeyError):  # the process that submitted them was killed before it wrote this
            known = scheduler.numbers(f"{self._name}-{folder.name}")
        return {int(number.partition("_")[2] or 0): number for number in known}

    def add(self, cells: Sequence[Measured], again: Sequence[Pack]) -> None:
        """Have `submit` submit cells that were never submitted, and packs."""
        for needs, own in packs.packed(cells, self._slurm).items():
            self._queue.setdefault((needs, None), []).extend(own)
        for pack in again:
            self._queue.setdefault((self._slurm.needs(pack.cells[0].job), pack.node), []).append(pack)

    def submit(self) -> Iterator[Task]:
        """Submit what was added; the jobs of each array once it is submitted.

        Raises SchedulerError where sbatch refuses an array; that and what comes after it stay to be submitted.
        """
        for (needs, node), own in self._queue.items():
            while own:
                tasks = [*self._submit(needs, node, own[: scheduler.largest_array()])]
                del own[: len(tasks)]
                yield from tasks

    def _submit(self, needs: Needs, node: str | None, own: Sequence[Pack]) -> Iterator[Task]:
        """Submit packs as one array."""
        folder = next(folder for folder in self._names() if make(folder))
        files = [folder / f"{number}.json" for number in range(len(own))]
        for pack, file in zip(own, files, strict=True):
            packs.write(pack, file)
        parameters = self._slurm.parameters(needs, node) | {"job_name": f"{self._name}-{folder.name}"}
        try:
            numbers = scheduler.submit(job.run, files, parameters, folder / "submitit")
        except SchedulerError:
            shutil.rmtree(folder, ignore_errors=True)  # a job that was submitted none the less finds no pack
            raise
        record.write_json({"jobs": numbers}, folder / "ids.json")
        return map(Task, numbers, files, own)

    def _names(self) -> Iterator[Path]:
        for number in itertools.count(1):
            yield self._folder / f"{number:03}"
