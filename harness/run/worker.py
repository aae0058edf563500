"""What a child process does: build the problem, bind the method, run one pass, write what was seen.

A cell has four passes, each in a fresh process, since each would disturb the others: `time`, `exact` (peak and number
of tensor allocations under the profiler, then operations and FLOPs under dispatch modes), `process` (peak of resident
memory, with glibc's caching off) and `agreement`. Before the last the pass `reference` computes what results are
compared with, where no method is imported. `peak` is the first half of `exact`. Beside them `limits` measures the
machine, `problem` builds and evaluates the problem, and `identity` tells versions and the method's hash without calling
it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import pkgutil
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

from harness.job import Job
from harness.measure import clock, counters, environment, memory, rates
from harness.measure.warning_log import Listener
from harness.problems import (
    Problem,
    ProblemError,
    attention,
    build,
    check,
    networks,
    subset,
    tensors_of,
    torch_messages,
)
from harness.problems.binding import Cell, MethodError, Unsupported, asks, bind, provenance
from harness.problems.errors import CodeError, place
from harness.record import write_json
from harness.run.timing import timing
from harness.truth import apart, sketch, traces
from harness.truth.check import judged
from harness.truth.watch import Watch

# Modules that torch imports on the first call of a transform: 1 to 2 s that belong to no method.
LAZY = ("torch._dynamo", "torch._decomp.decompositions_for_jvp", "torch.profiler")


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


Fields = Iterator[dict[str, Any]]  # of a record, as they become known


def preload() -> None:
    """In the server, before any fork: import what every child would, and look at the machine once."""
    for module in LAZY:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    environment.machine()
    gc.collect()
    gc.freeze()  # a collection in a child must not walk, and so copy, the half million objects of the server


def run(job: dict[str, Any], part: str, result: str, truth: str | None = None) -> None:
    """Run a pass of a cell, or `reference`, `limits`, `problem` or `identity`; write its fields to `result`.

    `truth` is the file that `reference` writes and that `agreement` reads. What is known is written step by step,
    for the case that a call never returns; a `status` is there only once it is the pass's last word on the row, as at
    its end, or where a fault is found. Whatever is raised ends as a row.
    """
    began = time.perf_counter()
    seen: dict[str, Any] = {}
    heard = Listener()
    try:
        asked = Job.from_dict(job)
        _device(asked.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        attention.use_math()
        seen |= environment.describe(asked.device, asked.code)
        if part == "limits":
            seen |= rates.measure(_begin(asked), getattr(torch, asked.dtype))
        elif part == "problem":
            seen |= _described(asked)
        elif part == "identity":
            seen |= provenance(asked) | {"asks": asks(asked)}
        else:
            for fields in _fields(asked, part, truth, heard, began):
                seen |= fields
                write_json(seen, Path(result))
    except BaseException as error:
        traces.settle()
        seen |= _failure(error, part)
    seen |= heard.fields() if part == job["passes"][0] else {}
    write_json({"status": "ok"} | seen, Path(result))


def _failure(error: BaseException, part: str) -> dict[str, Any]:
    """The fields that an exception ends as; a traceback but where the message says it all."""
    if isinstance(error, CodeError):
        return {"status": error.status, "message": torch_messages.text(error), "traceback": torch_messages.trace(error)}
    if isinstance(error, ProblemError | DeviceError | MethodError):
        return {"status": "error", "message": torch_messages.text(error)}
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "message": torch_messages.text(error)}
    status, message = torch_messages.explain(error)
    if part == "reference":  # no fault of the method's
        status = "error" if status == "unsupported" else status
        message = f"the reference, which results are compared with, cannot be computed: {message}{place(error)}"
    return {"status": status, "message": message, "traceback": torch_messages.trace(error)}


def _fields(job: Job, part: str, truth: str | None, heard: Listener, began: float) -> Fields:
    """The fields of a pass, as they become known, with the seconds since the process began."""
    for fields in _reference(job, truth) if part == "reference" else _measured(job, part, truth, heard, began):
        yield fields | {"worked_s": time.perf_counter() - began}


def _described(job: Job) -> dict[str, Any]:
    """`params` (P), what the problem's builder was called with, and the attention that its loss calls."""
    problem = _problem(job)
    return {
        "params": problem.theta.numel(),
        "builder_options": _builder_options(job),
        "attention": attention.met(problem.loss, problem.theta),
    }


def _reference(job: Job, truth: str | None) -> Fields:
    assert truth is not None
    apart.compute(job, _problem(job), Path(truth))
    yield {}


def _measured(job: Job, part: str, truth: str | None, heard: Listener, began: float) -> Fields:
    """Build the problem, import the method, and run the pass; what judges the method is there before it is imported."""
    problem = _problem(job)
    first = part == job.passes[0]  # what is the same in every pass of a cell is told by the first
    yield {"params": problem.theta.numel(), "whole_params": problem.whole, "samples": _length(problem.inputs)}
    if first:
        operators = ", ".join(sketch.operators(problem.loss, problem.theta))
        yield {"operators": operators, "attention": attention.met(problem.loss, problem.theta)} | heard.fields()
    known = None if truth is None else apart.load(Path(truth))
    if known is not None:
        apart.require_same_point(known, problem)
    watch = Watch() if part in ("time", "agreement") else None  # the others measure memory, which it takes
    if first:
        yield provenance(job)
    cell = bind(job, problem)
    if watch is None:
        yield from {"exact": _exact, "peak": _peak, "process": _process}[part](cell)
    elif known is None:
        yield from timing(cell, watch, began)
    else:
        yield from judged(cell, watch, known)


def _begin(job: Job) -> torch.device:
    """Set the process up as the job asks, the memory limit apart; its device.

    All random states begin alike, so that a builder which ignores its seed builds one problem in all processes.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    random.seed(job.seed)
    numpy.random.seed(job.seed % 2**32)
    return _device(job.device)


def _problem(job: Job) -> Problem:
    """The problem of a job, on its device and in its dtype, checked."""
    device = _begin(job)
    if job.memory_limit_gb is not None:
        memory.limit(job.memory_limit_gb, device)
    problem = build(job.problem_target, _builder_options(job)).to(device, getattr(torch, job.dtype))
    check(problem)
    return problem if job.subset is None else subset(problem, job.subset, job.seed)


def _builder_options(job: Job) -> dict[str, Any]:
    """What the problem's builder is called with: the job's options, and its seed where the builder takes one."""
    options = job.builder_options
    with contextlib.suppress(ImportError, AttributeError, ValueError, TypeError):
        if "seed" in inspect.signature(pkgutil.resolve_name(job.problem_target)).parameters:
            options.setdefault("seed", job.seed)
    return options


def _device(name: str) -> torch.device:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(
            f"device={name} was asked for, but this torch build ({torch.__version__}) sees no GPU; use device=cpu, or "
            "install a CUDA build of torch and a driver"
        )
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise DeviceError(
            f"device={name} was asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on"
        )
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else device


def _length(inputs: Any) -> int | None:
    """N, the length of the first tensor among the inputs."""
    return next((len(tensor) for tensor in tensors_of(inputs) if tensor.dim()), None)


def _warm_up(cell: Cell) -> None:
    """Call the method on a network of two neurons, for what it imports, starts or allocates once and for all.

    What is compiled is compiled for one call alone, so there it is the cell's own.
    """
    theta = cell.problem.theta
    compiles = bool(cell.job.method_options.get("compile"))
    if not compiles:
        tiny = networks.mlp(inputs=2, width=2, outputs=2, batch=2).to(theta.device, theta.dtype)
        with contextlib.suppress(Exception):
            bind(cell.job, tiny).call()
    if compiles or counters.compilation() or counters.unseen():
        cell.call()
    clock.synchronize(cell.device)


def _exact(cell: Cell) -> Fields:
    yield from _peak(cell)
    if not counters.unseen() and not counters.compilation():
        yield counters.count(cell.call)


def _peak(cell: Cell) -> Fields:
    _warm_up(cell)
    if counters.unseen():
        return
    peak, allocations = memory.tensor_peak(cell.call, cell.device)
    yield {"tensor_peak_bytes": peak, "allocations": allocations}


def _process(cell: Cell) -> Fields:
    memory.prepare_process_peak()
    _warm_up(cell)
    yield {"process_peak_bytes": memory.process_peak(cell.call)}
