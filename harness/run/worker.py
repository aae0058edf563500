"""What a child process does: build the problem, bind the method, run one pass, write the fields of the record.

A benchmark cell has four passes. Each runs in a fresh process, since each would disturb the others:

- `time` (`harness.run.time_pass`);
- `exact`: peak and number of tensor allocations under the profiler, then operations and FLOPs under a dispatch mode,
  and on a GPU how long it computes, under the profiler;
- `process`: peak of resident memory, with glibc's caching off;
- `agreement` (`harness.run.agreement_pass`).

Further parts are requested like passes:

- `reference` computes what results are compared with, before the agreement pass, in a process that imports no method;
- `peak` is the first half of `exact`;
- `stated` calls the method once, for what its result states of its error (`harness.truth.stated`);
- `rates` measures the machine;
- `problem` builds and evaluates the problem;
- `identity` gives versions and the hashes of the method and the problem, and calls neither.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import os
import pkgutil
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from harness.job import Job
from harness.measure import busy, clock, communication, counters, environment, memory, ranks, rates
from harness.measure.warning_log import WarningLog
from harness.problems import (
    Problem,
    ProblemError,
    attention,
    build,
    check,
    chosen,
    mesh,
    networks,
    per_sample,
    require_possible,
    split,
    subset,
    tensors_of,
    trained,
)
from harness.problems.binding import BoundMethod, bind
from harness.problems.errors import CodeError, place
from harness.problems.method_source import MethodError, Unsupported, parameter_names, provenance
from harness.problems.source import source_hash
from harness.problems.torch_messages import explain, text, trace
from harness.record import StorageError, storable, write_bytes, write_json
from harness.run.agreement_pass import agreement_pass
from harness.run.time_pass import time_pass
from harness.truth import process_state, reference_process
from harness.truth.operators import operators
from harness.truth.results import ResultFault
from harness.truth.side_effects import SideEffects
from harness.truth.stated import stated

# Modules that torch imports on the first call of a transform: 1 to 2 s that belong to no method.
LAZY = ("torch._dynamo", "torch._decomp.decompositions_for_jvp", "torch.profiler")
# A GPU's busy time is measured only where the time limit leaves so many times what the pass has taken so far.
ROOM = 3


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


Fields = Iterator[dict[str, Any]]  # of a record, as they become known


def preload() -> None:
    """Import what every child would, and read the machine's fields once: in the server, before any fork."""
    for module in LAZY:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    environment.machine()
    source_hash("harness.problems", ["harness.problems.networks"])  # parses what most import, and keeps that
    gc.collect()
    gc.freeze()  # a collection in a child must not walk, and so copy, the half million objects of the server


def run(
    job: dict[str, Any], part: str, result: str, truth: str | None = None, place: ranks.Place | None = None
) -> bool:
    """Run a pass of a cell or a further part; write its fields to `result`. Returns whether it ended well.

    `place` is that of this process among those that run the pass together; None where it is alone. On GPUs rank r runs
    on `cuda:r`.

    `truth` is the file that `reference` writes and that `agreement` reads. Known fields are written step by step, in
    case a call never returns. `status` is written last: at the end of the pass, or where a fault is found. Whatever is
    raised becomes a status and a message. A copy of this process ends where it would write. Raises StorageError where a
    file cannot be written; `unwritten` then says so if that can be written.
    """
    began, process = time.perf_counter(), os.getpid()
    seen: dict[str, Any] = {}
    warning_log = WarningLog()
    try:
        asked = Job.from_dict(job)
        if place is not None and asked.device != "cpu":
            asked = replace(asked, device=f"cuda:{place.rank}")
        device = _device(asked.device)
        if place is not None:
            mesh.join(device, FileStore(place.store, place.count), place.rank, place.count)
            ranks.join(place, mesh.LONGEST)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        attention.use_math()
        seen |= environment.describe(asked.device, asked.code)
        seen["deterministic"] |= asked.mode == "deterministic"
        if part == "rates":
            seen |= rates.measure(_begin(asked), getattr(torch, asked.dtype))
        elif part == "problem":
            seen |= _described(asked)
        elif part == "identity":
            seen |= _problem_hash(asked)
            seen |= provenance(asked) | {"asks": parameter_names(asked)}
        else:
            for fields in _fields(asked, part, truth, warning_log, began):
                seen |= fields
                _write(seen, result, process)
    except StorageError as error:
        _write({"unwritten": [error.errno, error.strerror, error.filename]}, result, process)
        raise
    except BaseException as error:
        process_state.restore_essentials()
        seen |= _failure(error, part)
    if part == job["passes"][0]:
        seen |= warning_log.fields()
    ended = {"status": "ok"} | seen
    _write(ended, result, process)
    return ended["status"] == "ok"


def _write(seen: dict[str, Any], result: str, process: int) -> None:
    """Write the fields in the process of the pass; end any other, which the method has forked and let return.

    They are written as a record stores them, so that only a file that was overwritten has what a record refuses.
    """
    if os.getpid() != process:
        os._exit(0)
    write_json(storable(seen), Path(result))


def _failure(error: BaseException, part: str) -> dict[str, Any]:
    """The fields of a record for an exception; with a traceback where the message does not explain it."""
    if isinstance(error, CodeError):
        return {"status": error.status, "message": text(error), "traceback": trace(error)}
    if isinstance(error, ProblemError | DeviceError | MethodError):
        return {"status": "error", "message": text(error)}
    if isinstance(error, ResultFault):
        return {"status": "wrong", "message": text(error)}
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "message": text(error)}
    status, message = explain(error)
    if part == "reference":  # no fault of the method's
        status = "error" if status == "unsupported" else status
        message = f"the reference, which results are compared with, cannot be computed: {message}{place(error)}"
    return {"status": status, "message": message, "traceback": trace(error)}


def _fields(job: Job, part: str, truth: str | None, warning_log: WarningLog, began: float) -> Fields:
    """The fields of a pass, as they become known, with the seconds since the process began."""
    passes = _reference(job, truth) if part == "reference" else _measured(job, part, truth, warning_log, began)
    for fields in passes:
        yield fields | {"worked_s": time.perf_counter() - began}


def _described(job: Job) -> dict[str, Any]:
    """`params` (P), the options with which the problem's builder is called, and the attention that its loss calls."""
    problem = _problem(job)
    return {
        "params": problem.theta.numel(),
        "builder_options": _builder_options(job),
        "attention": attention.backend_of(problem.loss, problem.theta),
    }


def _reference(job: Job, truth: str | None) -> Fields:
    assert truth is not None
    write_bytes(reference_process.compute(job, _problem(job)), Path(truth))
    yield {}


def _measured(job: Job, part: str, truth: str | None, warning_log: WarningLog, began: float) -> Fields:
    """Build the problem, import the method, and run the pass.

    Everything that judges the method is loaded before the method is imported.
    """
    first = part == job.passes[0]  # the first pass reports what is the same in every pass
    if first:
        yield _problem_hash(job)
        _warn_of_shared_cores(job)
    problem = _problem(job)
    if ranks.count() > 1:
        reference_process.require_same_in_all_ranks(problem)
    yield {"params": problem.theta.numel(), "whole_params": problem.whole, "samples": _length(problem.inputs)}
    if first:
        yield {
            "operators": ", ".join(operators(problem.loss, problem.theta)),
            "attention": attention.backend_of(problem.loss, problem.theta),
        } | warning_log.fields()
    if part == "agreement":
        assert truth is not None
        known = reference_process.load(Path(truth))
        reference_process.require_same_point(known, problem)
        side_effects = SideEffects()
        yield from _bound(job, problem, first, lambda bound: agreement_pass(bound, side_effects, known))
    elif part == "time":
        side_effects = SideEffects()
        yield from _bound(job, problem, first, lambda bound: time_pass(bound, side_effects, began))
    elif part == "exact":  # this pass and the others measure memory, which the search for side effects would take
        yield from _bound(job, problem, first, lambda bound: _exact_pass(bound, began))
    else:
        yield from _bound(job, problem, first, FURTHER[part])


def _bound(job: Job, problem: Problem, first: bool, run_pass: Callable[[BoundMethod], Fields]) -> Fields:
    """Import the method, bind it, and run a pass; the first pass also reports its provenance and what was compiled."""
    if first:
        yield provenance(job)
    yield from run_pass(bind(job, problem))
    if first:
        compiled = counters.compilation()
        yield compiled
        if _compiles(job):
            _warn_of_what_is_not_compiled(compiled)


def _warn_of_shared_cores(job: Job) -> None:
    cores = environment.machine()["cores"]
    if job.processes > 1 and job.device == "cpu" and job.processes * job.threads > cores:
        text = f"{job.processes} processes with threads={job.threads} each share {cores} cores, which makes them slower"
        warnings.warn(text, stacklevel=1)


def _warn_of_what_is_not_compiled(compiled: Mapping[str, int]) -> None:
    if not compiled.get("compiled_graphs"):
        warnings.warn("torch.compile compiled no part of the method: it ran as it is", stacklevel=1)
    elif compiled["graph_breaks"]:
        text = f"torch.compile compiled parts of the method, with {compiled['graph_breaks']} graph breaks between them"
        warnings.warn(text, stacklevel=1)


def _problem_hash(job: Job) -> dict[str, str]:
    """The field `problem_hash` of a record. An option may name a layer or a loss by its dotted path."""
    return {"problem_hash": source_hash(job.problem_target, job.problem_texts)}


def _begin(job: Job) -> torch.device:
    """Set the process up as the job asks, without the memory limit; returns its device, torch's current one.

    All random states begin alike, so that a builder that ignores its seed builds one problem in all processes.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    random.seed(job.seed)
    numpy.random.seed(job.seed % 2**32)
    device = _device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or else events and streams would be those of cuda:0
    return device


def _problem(job: Job) -> Problem:
    """The problem of a job, on its device and in its dtype, checked."""
    if job.per_sample:
        require_possible(job)
    device = _begin(job)
    if job.memory_limit_gb is not None:
        memory.limit(job.memory_limit_gb, device)
    problem = trained(build(job.problem_target, _builder_options(job)), job.train_steps)
    problem = problem.to(device, getattr(torch, job.dtype))
    if job.parameters is not None:
        problem = chosen(problem, job.parameters)
    if job.wrt == "parameters":
        check(problem)
    if job.per_sample:
        return _of_each_sample(job, problem)
    if job.batches is not None:
        problem = split(problem, job.batches, job.batch_weights)
    return problem if job.subset is None else subset(problem, job.subset, job.seed)


def _of_each_sample(job: Job, problem: Problem) -> Problem:
    """The problem of each sample's own derivatives, checked."""
    problem = per_sample(problem, job.wrt)
    check(problem)
    return problem


def _builder_options(job: Job) -> dict[str, Any]:
    """The options with which the problem's builder is called: the job's, and its seed where the builder takes one."""
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


def _warm_up(bound: BoundMethod) -> None:
    """Call the method on a network of two neurons, for what it imports, starts or allocates only once.

    A compiled method is compiled for each problem, so there the call is the cell's own.
    """
    theta = bound.problem.theta
    if not _compiles(bound.job):
        tiny = networks.mlp(inputs=2, width=2, outputs=2, batch=2).to(theta.device, theta.dtype)
        with contextlib.suppress(Exception):
            bind(bound.job, per_sample(tiny, bound.job.wrt) if bound.job.per_sample else tiny).call()
    if _compiles(bound.job) or counters.compilation() or counters.jax_is_imported():
        bound.call()
    clock.synchronize(bound.device)


def _compiles(job: Job) -> bool:
    """Whether the method is to be compiled by torch.compile, as a whole or by its own option."""
    return job.mode == "compiled" or bool(job.method_options.get("compile"))


def _exact_pass(bound: BoundMethod, began: float) -> Fields:
    yield from _peak_pass(bound)
    counted: dict[str, int] = {}
    if not counters.jax_is_imported() and not counters.compilation():
        counted = counters.count(bound.call)
        ranks.meet()  # so that it is known which rank did not end its call
        yield counted
    if ranks.count() > 1:
        yield communication.measure(bound.call)
    if bound.device.type == "cuda":
        operations, spent_s = ranks.slowest(counted.get("operations", 0)), ranks.slowest(time.perf_counter() - began)
        yield _gpu_busy(bound, int(operations), spent_s)


def _gpu_busy(bound: BoundMethod, operations: int, spent_s: float) -> dict[str, Any]:
    """The field `gpu_busy_s`, or `gpu_busy_missing`: a failure here is no failure of the method.

    `operations` of a call are 0 where they are not known; `spent_s` is how much of the pass's time limit is spent. Both
    are the largest of all ranks, so that all trace the call or none does.
    """
    if bound.job.limit_s - spent_s < ROOM * spent_s:
        return {"gpu_busy_missing": "the time limit leaves too little room to trace the call"}
    try:
        return {"gpu_busy_s": busy.busy_s(bound.call, bound.device, operations)}
    except busy.Untraced as reason:
        return {"gpu_busy_missing": str(reason)}
    except Exception as error:
        return {"gpu_busy_missing": explain(error)[1]}


def _peak_pass(bound: BoundMethod) -> Fields:
    _warm_up(bound)
    if counters.jax_is_imported():
        return
    yield memory.tensor_peak(bound.call, bound.device)
    ranks.meet()  # so that it is known which rank did not end its call


def _process_pass(bound: BoundMethod) -> Fields:
    memory.prepare_process_peak()
    _warm_up(bound)
    yield {"process_peak_bytes": memory.process_peak(bound.call)}
    ranks.meet()


def _stated_pass(bound: BoundMethod) -> Fields:
    _warm_up(bound)
    first_s, _, result = clock.timed(bound.call, bound.device)
    yield {"first_s": first_s} | stated(result, bound.job.quantity)


FURTHER = {"peak": _peak_pass, "process": _process_pass, "stated": _stated_pass}
