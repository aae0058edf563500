"""What many records and cells cost: `python -m tests.programs.scale [RECORDS]` (100,000 by default).

Records are made from those of five committed baselines, each in five processes, at four sizes and on as many problems
as it takes. Loading is measured from one file, from a file a record, and from the pack of these files that the first
such loading has made. The report is measured at a tenth of the records, and at all of them from the pack, with its
loading. Composing is measured with the cells of a sweep. Each task runs in a process of its own. Shown are its
processor time, less that of a process with nothing to do, and its peak of resident memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from harness import record
from harness.__main__ import extend_hydra
from harness.composition import Compositions
from harness.config import CONF
from harness.plan import plan_of

ROOT = Path(__file__).parent.parent.parent
BASELINES = ("methods", "factored", "factored_diagonal", "front", "quick")
ROUNDS, SIZES = 5, 4
CELLS = 7245  # of all methods on all test networks, with a few seeds

TASKS = {
    "nothing": "",
    "load one file": "record.load('records.jsonl')",
    "load a file each": "record.load('run')",
    "load their pack": "record.load('run')",
    "report of a tenth": "write(Analysis(record.load('tenth.jsonl')), Path('tenth'))",
    "report of all": "write(Analysis(record.load('run')), Path('report'))",
    "compose a sweep": "compose()",
}
IMPORTS = (
    "from pathlib import Path",
    "from harness import record",
    "from harness.analysis.table import Analysis",
    "from harness.report.files import write",
    "from tests.programs.scale import compose",
)


def main(count: int) -> None:
    """Write the records, then print a line for each task."""
    with tempfile.TemporaryDirectory() as folder:
        _write(count, Path(folder))
        print(f"{count:,} records, {CELLS:,} cells: seconds of processor time, peak of resident memory")
        for name, task in TASKS.items():
            seconds, peak = _cost(task, Path(folder))
            print(f"{name:20} {seconds:6.1f} s {peak / 2**20:6.0f} MiB", flush=True)


def _write(count: int, folder: Path) -> None:
    """Write the records to a file, a tenth of them to another, and each to a file of its own."""
    with (folder / "records.jsonl").open("w") as every, (folder / "tenth.jsonl").open("w") as tenth:
        for number, seen in enumerate(synthetic(count)):
            line = json.dumps(seen) + "\n"  # in ASCII
            every.write(line)
            if number < count // 10:
                tenth.write(line)
            single = folder / "run" / str(number) / "record.json"
            single.parent.mkdir(parents=True)
            single.write_text(line)


def compose() -> None:
    """Compose the cells of all methods on all test networks, and make their plans."""
    extend_hydra()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        problems = [f"zoo/{name}" for name in loader.get_group_options("problem/zoo")]
        methods = loader.get_group_options("method")
        seeds = range(-(-CELLS // (len(problems) * len(methods))))
        cells = [
            [f"problem={problem}", f"method={method}", f"seed={seed}"]
            for problem in problems
            for method in methods
            for seed in seeds
        ][:CELLS]
        compositions = Compositions(cells, lambda cell: loader.load_sweep_config(master, list(cell)))
        for cell in cells:
            plan_of(compositions.of(cell))


def _cost(task: str, folder: Path) -> tuple[float, int]:
    """Seconds of processor time and bytes at the peak of a process that runs a task in a folder, with its imports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "\n".join([*IMPORTS, task, "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, 1024 * int(done.stdout.splitlines()[-1])


def synthetic(count: int) -> Iterator[dict[str, Any]]:
    """So many records, always the same, no two of them alike."""
    originals = record.records(*(ROOT / "results" / "baselines" / f"{name}.jsonl" for name in BASELINES))
    chance = random.Random(0)
    for number in range(count):
        copy, which = divmod(number, len(originals))
        place, number_of_round = divmod(copy, ROUNDS)
        problem, size = divmod(place, SIZES)
        yield _varied(originals[which], number_of_round, size, problem, chance.lognormvariate(0, 0.1))


def _varied(seen: Mapping[str, Any], number: int, size: int, problem: int, factor: float) -> dict[str, Any]:
    """A record as of another round, size (0 for its own) and problem (0 for its own), its times by a factor longer."""
    grown = 2.0**size
    options = json.loads(seen["problem_options"] or "{}")
    times = {
        name: [time * factor * grown for time in seen[name]]
        for name in ("times_s", "warmup_s", "gradient_s")
        if seen[name]
    }
    whole = {
        name: int(seen[name] * grown) for name in ("params", "tensor_peak_bytes", "process_peak_bytes") if seen[name]
    }
    other = f"_{problem}" if problem else ""
    return {
        **seen,
        **times,
        **whole,
        "round": number,
        "first_s": seen["first_s"] and seen["first_s"] * factor * grown,
        "problem": f"{seen['problem']}{other}",
        "problem_target": seen["problem_target"] and f"{seen['problem_target']}{other}",
        "problem_options": json.dumps(options | {"width": options.get("width", 8) * (1 + size)}),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100_000)
