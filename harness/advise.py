"""`python -m harness.advise problem=... quantity=hessian device=cpu memory_gb=8`: which way for this problem.

Every way is run on the problem itself, but in few of its parameters (`subset`): each column of that small Hessian costs
what one of the whole costs. Time and memory grow with the number of columns along a line, which is followed to the
problem's own number of parameters; the output itself grows with its square. A way that asks for the network is run
whole instead, within limit_s: what it does depends on the layers, which a subset hides.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from harness import record, sweep
from harness.__main__ import CONF, extend_hydra
from harness.job import Job
from harness.launch import Launcher
from harness.report.tables import duration, significant
from harness.reproduce import ReproduceError, parameters

CHECKED = 64  # parameters in which a way's result is judged
SIZES = tuple(64 * 2**power for power in range(12))  # numbers of parameters at which a way is measured
ENOUGH_S = 1.0  # a call's time from which on no larger size is tried
FASTER = 1.4  # growth exponent above which a power law is followed instead of a line
LIMIT_S, BUDGET_S = 20, 0.3  # of a pass and of its samples, where the overrides say nothing else
OFFERED = ("loss", "theta", "sizes", "model", "criterion", "inputs", "targets", "vectors")  # what a method may ask for
OUTPUT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Advice:
    """What to expect of one way at the problem's own size."""

    method: str
    call: str  # the line of code
    status: str
    message: str | None
    time_s: float | None = None
    peak_bytes: float | None = None  # of tensor memory above the start
    error: float | None = None  # relative, in the parameters that were checked


def advise(overrides: Sequence[str], output: Path) -> list[Advice]:
    """Measure the ways that the overrides choose, or all that are not compiled; the right ones first, by their time.

    Records are left in `output`. Raises JobError or Hydra's errors where the overrides cannot be composed.
    """
    chosen = jobs(overrides)
    with Launcher() as launcher, Progress(console=Console(stderr=True), transient=True) as progress:
        found, whole = [], None
        for job in progress.track(chosen, description="measuring"):
            if whole is None:
                whole = _run(launcher, job, output, 1, "agreement")["whole_params"]
            found.append(_expect(launcher, job, output, whole or 1))
    return sorted(found, key=lambda way: (way.status != "ok", way.time_s is None, way.time_s))


def jobs(overrides: Sequence[str]) -> list[Job]:
    """A job for each way that the overrides choose: `method=a,b`, or without one all ways that are not compiled."""
    extend_hydra()
    named = [entry.removeprefix("method=").split(",") for entry in overrides if entry.startswith("method=")]
    rest = [entry for entry in overrides if not entry.startswith("method=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = named[0] if named else GlobalHydra.instance().config_loader().get_group_options("method")
        configs = [compose("config", [*rest, f"method={name}"], return_hydra_config=True) for name in names]
        found = [sweep.cell_of(config).job for config in configs]
    return found if named else [job for job in found if not job.method_options.get("compile")]


def _run(launcher: Launcher, job: Job, output: Path, subset: int, *passes: str) -> dict[str, Any]:
    return record.read(launcher.run(dataclasses.replace(job, subset=subset, passes=passes), output))


def _expect(launcher: Launcher, job: Job, output: Path, whole: int) -> Advice:
    """Judge a way on few parameters, measure it on ever more, and follow its lines to all of them."""
    if "model" in _asked(job):
        seen = record.read(launcher.run(dataclasses.replace(job, passes=("time", "exact", "agreement")), output))
        way = Advice(job.method, _call(job), seen["status"], seen["message"], error=seen["relative_error"])
        if seen["status"] != "ok":
            return way
        return dataclasses.replace(way, time_s=_time(seen), peak_bytes=seen["tensor_peak_bytes"])
    seen = _run(launcher, job, output, min(CHECKED, whole), "agreement")
    way = Advice(job.method, _call(job), seen["status"], seen["message"], error=seen["relative_error"])
    if seen["status"] != "ok":
        return way
    times: list[tuple[int, float]] = []
    peaks: list[tuple[int, float]] = []
    squares = OUTPUT_BYTES[job.dtype] if job.quantity in ("hessian", "ggn") else 0
    for size in [*(size for size in SIZES if size < whole), whole]:
        seen = _run(launcher, job, output, size, "time", "exact")
        if seen["status"] != "ok":
            break
        times.append((size, _time(seen)))
        if seen["tensor_peak_bytes"] is not None:
            peaks.append((size, seen["tensor_peak_bytes"] - squares * size**2))
        if len(times) > 2 and times[-1][1] > ENOUGH_S:
            break
    if not times:
        return dataclasses.replace(way, status=seen["status"], message=seen["message"])
    peak = expected(peaks, whole) + squares * whole**2 if peaks else None
    return dataclasses.replace(way, time_s=expected(times, whole), peak_bytes=peak)


def expected(points: Sequence[tuple[int, float]], size: int) -> float:
    """The value at `size` on the line through the last two points; on their power law where they grow much faster."""
    if len(points) == 1 or points[-1][0] == size:
        return points[-1][1]
    (x, y), (last_x, last_y) = points[-2:]
    if y > 0 and last_y > 0:
        exponent = math.log(last_y / y) / math.log(last_x / x)
        if exponent > FASTER:
            return last_y * (size / last_x) ** exponent
    return last_y + max((last_y - y) / (last_x - x), 0.0) * (size - last_x)


def _time(seen: dict[str, Any]) -> float:
    return statistics.median(seen["times_s"] or [seen["first_s"]])


def _asked(job: Job) -> list[str]:
    try:
        return [name for name in parameters(job.target) if name in OFFERED]
    except ReproduceError:
        return ["..."]


def _call(job: Job) -> str:
    told = [f"{name}={value!r}" for name, value in job.method_options.items()]
    return f"{job.target}({', '.join([*_asked(job), *told])})"


def show(ways: Sequence[Advice], memory_gb: float | None, console: Console) -> None:
    """Print the ways, the best on top; those that do not fit into memory after those that do."""
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "time", "peak MB", "error"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    table.add_column("code", overflow="fold")
    fits = [way for way in ways if way.time_s is not None and not _too_large(way, memory_gb)]
    for way in fits:
        table.add_row(way.method, duration(way.time_s or 0.0), _megabytes(way), _error(way), Text(way.call))
    console.print(table)
    for way in ways:
        if way.time_s is not None and _too_large(way, memory_gb):
            console.print(Text(f"{way.method}: {_megabytes(way)} MB are more than memory_gb={memory_gb:g}"))
    for way in ways:
        if way.time_s is None:
            console.print(Text(f"{way.method}: {way.status}, {way.message}"), no_wrap=True, overflow="ellipsis")


def _too_large(way: Advice, memory_gb: float | None) -> bool:
    return memory_gb is not None and way.peak_bytes is not None and way.peak_bytes > memory_gb * 1e9


def _megabytes(way: Advice) -> str:
    return "?" if way.peak_bytes is None else significant(way.peak_bytes / 1e6)


def _error(way: Advice) -> str:
    return "?" if way.error is None else f"{way.error:.0e}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what to expect of every way; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.advise", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE",
                        help="as of python -m harness; memory_gb=N leaves out what does not fit")  # fmt: skip
    given = list(parser.parse_args(arguments).overrides)
    limits = [entry.removeprefix("memory_gb=") for entry in given if entry.startswith("memory_gb=")]
    try:
        memory_gb = float(limits[-1]) if limits else None
        if memory_gb is not None and not memory_gb > 0:
            raise ValueError(f"memory_gb={limits[-1]} must be a positive number of gigabytes")
        overrides = [entry for entry in given if not entry.startswith("memory_gb=")]
        with tempfile.TemporaryDirectory() as output:
            ways = advise([f"limit_s={LIMIT_S}", f"measure.budget_s={BUDGET_S}", *overrides], Path(output))
    except ValueError as error:
        print(f"harness.advise: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"harness.advise: {error}", file=sys.stderr)
        return 2
    show(ways, memory_gb, Console())
    return 0 if any(way.time_s is not None and not _too_large(way, memory_gb) for way in ways) else 1


if __name__ == "__main__":
    sys.exit(main())
