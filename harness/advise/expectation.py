"""What to expect of one method at a problem's own size: from few of its parameters, or from the whole."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import record
from harness.job import Job
from harness.reproduce import ReproduceError, parameters
from harness.run.launcher import Launcher

CHECKED = 64  # parameters in which a method's result is judged before it is measured
RAM = 0.5  # share of the machine's memory up to which a method is run whole
SIZES = tuple(64 * 2**power for power in range(12))  # numbers of parameters at which a method is measured
ENOUGH_S = 1.0  # a call's time from which on no larger size is tried
FASTER = 1.4  # growth exponent above which a power law is followed instead of a line
OFFERED = ("loss", "theta", "sizes", "model", "criterion", "inputs", "targets", "vectors")  # what a method may ask for
OUTPUT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Advice:
    """What to expect of one method at the problem's own size."""

    method: str
    call: str  # the line of code
    status: str
    message: str | None
    time_s: float | None = None
    peak_bytes: float | None = None  # of tensor memory above the start
    error: float | None = None  # relative, in the parameters that were judged
    judged: int = 0  # parameters in which the result was judged
    params: int | None = None  # P, all that there are
    whole: bool = False  # whether it was judged as the user would call it, on the problem itself


def _run(launcher: Launcher, job: Job, output: Path, subset: int, *passes: str) -> dict[str, Any]:
    return record.read(launcher.run(dataclasses.replace(job, subset=subset, passes=passes), output))


def expect(launcher: Launcher, job: Job, output: Path, memory_gb: float | None = None) -> Advice:
    """What to expect of a method: of one that asks for the network by running it whole, else from few parameters.

    It is not run whole where its result alone takes more than `memory_gb`, or half of the machine's memory.
    """
    known = _asked(launcher, job, output)
    if isinstance(known, Advice):
        return known
    told = [f"{name}={value!r}" for name, value in job.method_options.items()]
    call = f"{job.target}({', '.join([*known, *told])})"
    if "model" in known:
        return _of_network(launcher, job, output, call, memory_gb)
    seen = _run(launcher, job, output, min(CHECKED, job.subset or CHECKED), "agreement")
    if seen["status"] == "error" and seen["whole_params"] is None:  # as where there are fewer parameters than that
        seen = _run(launcher, job, output, 1, "agreement")
    whole = job.subset or seen["whole_params"]
    if seen["status"] == "ok" and seen["params"] < min(CHECKED, whole):
        seen = _run(launcher, job, output, min(CHECKED, whole), "agreement")
    way = _advice(job, call, seen, whole)
    return _extrapolated(launcher, job, output, way, whole) if seen["status"] == "ok" else way


def _of_network(launcher: Launcher, job: Job, output: Path, call: str, memory_gb: float | None) -> Advice:
    """The advice on a method that asks for the network: measured on the whole problem, then judged there."""
    params = job.subset or _run(launcher, job, output, 1, "process")["whole_params"]  # known even if it fails
    refusal = _beyond(job, params, memory_gb) if params is not None else None
    if refusal is not None:
        return Advice(job.method, call, "oom", refusal, params=params)
    seen = record.read(launcher.run(dataclasses.replace(job, passes=("time", "exact")), output))
    way = Advice(job.method, call, seen["status"], seen["message"], params=seen["params"])
    if seen["status"] != "ok":
        return way
    way = dataclasses.replace(way, time_s=_time(seen), peak_bytes=seen["tensor_peak_bytes"])
    return judged_whole(launcher, way, job, output)


def _beyond(job: Job, params: int, memory_gb: float | None) -> str | None:
    """Why a matrix of that many rows is too large to be computed; None where it fits, or none is asked for."""
    if job.quantity not in ("hessian", "ggn"):
        return None
    size = OUTPUT_BYTES[job.dtype] * params**2
    limits = [] if memory_gb is None else [(memory_gb * 1e9, f"memory_gb={memory_gb:g}")]
    if job.device == "cpu":
        limits.append((RAM * _ram(), "half of this machine's memory"))
    for limit, name in limits:
        if size > limit:
            return (
                f"not run: the result alone, {params} x {params} entries of {job.dtype}, takes {size / 1e9:.3g} GB, "
                f"more than {name}; ask for quantity=diagonal or hvp, or take a smaller network"
            )
    return None


def _asked(launcher: Launcher, job: Job, output: Path) -> list[str] | Advice:
    """What a method asks for; where it cannot be found, the advice is that."""
    with contextlib.suppress(ReproduceError):
        if job.code is None and job.interpreter is None:  # which would import another module of that name
            return [name for name in parameters(job.target) if name in OFFERED]
    seen = launcher.asks(job, output / "asked")
    if "asks" not in seen:
        return Advice(job.method, job.target, seen["status"], seen["message"])
    return [name for name in seen["asks"] if name in OFFERED]


def _advice(job: Job, call: str, seen: Mapping[str, Any], params: int | None) -> Advice:
    judged = seen["params"] if seen["status"] == "ok" else 0
    return Advice(
        job.method, call, seen["status"], seen["message"], error=seen["relative_error"], judged=judged, params=params
    )


def _extrapolated(launcher: Launcher, job: Job, output: Path, way: Advice, whole: int) -> Advice:
    """The advice with time and memory: measured at ever more parameters, and their lines followed to all of them."""
    times: list[tuple[int, float]] = []
    peaks: list[tuple[int, float]] = []
    squares = OUTPUT_BYTES[job.dtype] if job.quantity in ("hessian", "ggn") else 0
    for size in [*(size for size in SIZES if size < whole), whole]:
        seen = _run(launcher, job, output, size, "time", "exact")
        if seen["status"] == "timeout":
            break
        if seen["status"] != "ok":
            return dataclasses.replace(way, status=seen["status"], message=seen["message"])
        times.append((size, _time(seen)))
        if seen["tensor_peak_bytes"] is not None:
            peaks.append((size, seen["tensor_peak_bytes"] - squares * size**2))
        if len(times) > 2 and times[-1][1] > ENOUGH_S:
            break
    if not times:
        return dataclasses.replace(way, status=seen["status"], message=seen["message"])
    peak = expected(peaks, whole) + squares * whole**2 if peaks else None
    return dataclasses.replace(way, time_s=expected(times, whole), peak_bytes=peak)


def judged_whole(launcher: Launcher, way: Advice, job: Job, output: Path) -> Advice:
    """The advice after a call on the whole problem, where that can be afforded; else, or where it took too long, as is.

    The time limit counts for the reference too, so that a timeout says nothing against the method.
    """
    if way.time_s is None or way.time_s > job.limit_s or (job.device == "cpu" and _beyond_ram(way)):
        return way
    seen = record.read(launcher.run(dataclasses.replace(job, passes=("agreement",)), output))
    if seen["status"] == "timeout":
        return way
    judged = _advice(job, way.call, seen, way.params)
    if seen["status"] != "ok":
        return judged
    return dataclasses.replace(judged, time_s=way.time_s, peak_bytes=way.peak_bytes, whole=True)


def _beyond_ram(way: Advice) -> bool:
    return way.peak_bytes is not None and way.peak_bytes > RAM * _ram()


def _ram() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
