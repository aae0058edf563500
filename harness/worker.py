"""What a child process does: build the problem, bind the method, run one pass, write what was seen.

A cell has four passes, each in a fresh process, since each would disturb the others: `time`, `exact` (peak and number
of tensor allocations under the profiler, then operations and FLOPs under dispatch modes), `process` (peak of resident
memory, with glibc's caching off) and `agreement`. Beside them `limits` measures the machine, and `identity` tells
versions and the method's hash without calling it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness import advice, agreement, clock, counters, environment, fingerprint, limits, memory
from harness.explained import explained
from harness.heard import Listener
from harness.job import Job
from harness.problems import Problem, ProblemError, attention, build, check, networks, subset, tensors_of
from harness.record import write_json
from harness.reference import reference

# Modules that torch imports on the first call of a transform: 1 to 2 s that belong to no method.
PLAIN = ("loss", "theta", "sizes")  # what every problem has; what else a method may ask for is a network's
LAZY = ("torch._dynamo", "torch._decomp.decompositions_for_jvp", "torch.profiler")


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


class MethodError(ValueError):
    """The method's path or options lead nowhere."""


class Unsupported(NotImplementedError):
    """The method does not offer this quantity, or not for this kind of problem."""


@dataclass(frozen=True)
class Cell:
    """A job with everything built."""

    job: Job
    problem: Problem
    vectors: Tensor | None  # (P, k) for an hvp
    call: Callable[[], Any]  # the measured call
    offered: dict[str, Any]  # what a method may ask for, by name

    @property
    def device(self) -> torch.device:
        """Where the problem's tensors are."""
        return self.problem.theta.device


Fields = Iterator[dict[str, Any]]  # of a record, as they become known


def preload() -> None:
    """In the server, before any fork: import what every child would, and look at the machine once."""
    for module in LAZY:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    environment.machine()
    gc.collect()
    gc.freeze()  # a collection in a child must not walk, and so copy, the half million objects of the server


def run(job: dict[str, Any], part: str, result: str) -> None:
    """Run one pass (a key of PARTS, `limits` or `identity`) and write its fields of the record to `result`.

    What is known is written step by step, without a status until the end, for the case that a call never returns.
    """
    seen: dict[str, Any] = {}
    heard = Listener()
    try:
        asked = Job.from_dict(job)
        _device(asked.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        attention.use_math()
        seen |= environment.describe(asked.device, asked.code)
        if part == "limits":
            seen |= limits.measure(_begin(asked), getattr(torch, asked.dtype))
        else:
            began = time.perf_counter()
        if part in (asked.passes[0], "identity"):  # the same in every pass of a cell
            seen |= _provenance(asked)
        if part == "identity":
            seen["asks"] = list(inspect.signature(_function(asked)).parameters)
        if part in PARTS:
            cell = _prepare(asked)
            seen |= {"params": cell.problem.theta.numel(), "whole_params": cell.problem.whole,
                     "samples": _length(cell.problem.inputs)}  # fmt: skip
            if part == asked.passes[0]:
                seen["operators"] = ", ".join(fingerprint.operators(cell.problem.loss, cell.problem.theta))
                seen["attention"] = attention.met(cell.problem.loss, cell.problem.theta)
                seen |= heard.fields()
            write_json(seen, Path(result))
            for fields in PARTS[part](cell):
                seen |= fields | {"worked_s": time.perf_counter() - began}
                write_json(seen, Path(result))
    except (ProblemError, DeviceError, MethodError) as error:
        seen |= {"status": "error", "message": str(error)}
    except Unsupported as error:
        seen |= {"status": "unsupported", "message": str(error)}
    except (Exception, SystemExit) as error:
        status, message = advice.explain(error)
        seen |= {"status": status, "message": message, "traceback": "".join(traceback.format_exception(error))}
    seen |= heard.fields() if part == job["passes"][0] else {}
    write_json({"status": "ok"} | seen, Path(result))


def _begin(job: Job) -> torch.device:
    """Set the process up as the job asks, the memory limit apart; its device."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    return _device(job.device)


def _prepare(job: Job) -> Cell:
    device = _begin(job)
    if job.memory_limit_gb is not None:
        memory.limit(job.memory_limit_gb, device)
    builder_options = job.builder_options
    with contextlib.suppress(ImportError, AttributeError, ValueError, TypeError):
        if "seed" in inspect.signature(pkgutil.resolve_name(job.problem_target)).parameters:
            builder_options.setdefault("seed", job.seed)
    problem = build(job.problem_target, builder_options).to(device, getattr(torch, job.dtype))
    check(problem)
    return bind(job, problem if job.subset is None else subset(problem, job.subset, job.seed))


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


def bind(job: Job, problem: Problem) -> Cell:
    """Find the method and give it what its parameters ask for by name.

    Raises MethodError for a wrong path or option, Unsupported where the method has no such quantity or needs a
    network and the problem is a function.
    """
    function = _function(job)
    vectors = None
    if job.quantity == "hvp":
        generator = torch.Generator().manual_seed(job.seed + 1)
        drawn = torch.randn(problem.theta.numel(), job.vectors, generator=generator, dtype=torch.float64)
        vectors = drawn.to(problem.theta)
    offered = {"loss": problem.loss, "theta": problem.theta, "vectors": vectors, "model": problem.model,
               "criterion": problem.criterion, "inputs": problem.inputs, "targets": problem.targets,
               "sizes": problem.sizes}  # fmt: skip
    parameters = inspect.signature(function).parameters
    asked = {name: offered[name] for name in parameters if name in offered}
    absent = [name for name in asked if (vectors if name == "vectors" else problem.model) is None and name not in PLAIN]
    if absent:
        raise Unsupported(
            f"{job.target} asks for {', '.join(absent)}, which problem={job.problem} with quantity={job.quantity} does "
            "not have; use a problem that is a network, or a method that takes loss and theta"
        )
    options = [name for name in parameters if name not in offered]
    unknown = [name for name in job.method_options if name not in options]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        shown = ", ".join(options) or "none"
        raise MethodError(f"method.{unknown[0]} is no option of {job.target}; its options are: {shown}")
    return Cell(job, problem, vectors, lambda: function(**asked, **job.method_options), offered)


def _function(job: Job) -> Callable[..., Any]:
    path, _, name = job.target.rpartition(".")
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError) as error:
        package = (error.name or "") if isinstance(error, ModuleNotFoundError) else path
        if not f"{path}.".startswith(f"{package}."):  # the module is there, and what it imports is not
            extra = "jax" if package.startswith("jax") else "peers"
            install = f"pip install '.[{extra}]'" if path.startswith("methods.peers.") else f"install {package}"
            raise Unsupported(f"{path} needs the package {package}, which is not installed: {install}") from error
        raise MethodError(
            f"method._target_={job.target} cannot be imported: {error}; name a function by its dotted path, with its "
            "package installed or in the current directory"
        ) from error
    file = getattr(module, "__file__", None)
    if job.code is not None and file is not None and not Path(file).is_relative_to(Path(job.code).resolve()):
        raise MethodError(
            f"{path} was to come from code={job.code}, which has no such module; it was found in {file}. For "
            "baseline=git:REF start in the folder that holds the methods, of a repository whose commit has them"
        )
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items()
               if inspect.isfunction(value) and value.__module__ == module.__name__ and key[0] != "_"]  # fmt: skip
        raise Unsupported(f"{path} has no function {name}; it offers: {', '.join(own) or 'none'}")
    return function


def _provenance(job: Job) -> dict[str, Any]:
    """The method's hash, and the versions of the packages that it uses."""
    module = inspect.getmodule(inspect.unwrap(_function(job)))
    return {"method_hash": _method_hash(job, module), "packages": None if module is None else _packages(module)}


def _method_hash(job: Job, module: ModuleType | None) -> str:
    """A hash of the method's source, of the modules of its own package that it imports, and of its options."""
    package = "" if module is None else module.__name__.split(".")[0]
    files = {found.__file__ for name, found in list(sys.modules.items())
             if name.split(".")[0] == package and getattr(found, "__file__", None)}  # fmt: skip
    digest = hashlib.sha256(json.dumps(job.method_options, sort_keys=True).encode())
    for file in sorted(filter(None, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _packages(module: ModuleType) -> str | None:
    """Names and versions of the packages outside its own, torch and the standard library that a module uses."""
    origins = {str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).split(".")[0]
               for value in vars(module).values() if callable(value) or inspect.ismodule(value)}  # fmt: skip
    outside = origins - set(sys.stdlib_module_names) - {"", "torch", module.__name__.split(".")[0]}
    if not outside:
        return None
    distributions = metadata.packages_distributions()
    names = {name for origin in outside for name in distributions.get(origin, ())}
    return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(names)) or None


def _time(cell: Cell) -> Fields:
    measure, device = cell.job.measure, cell.device

    def gradient() -> Tensor:
        theta = cell.problem.theta.detach().requires_grad_()
        return torch.autograd.grad(cell.problem.loss(theta), theta)[0]

    waited, gpu = environment.cpu_waiting_s(), _gpu(cell)
    with tempfile.TemporaryDirectory() as compiled:  # so that the first call compiles, whatever was compiled before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        first_s, _ = clock.timed(cell.call, device)
        yield {"first_s": first_s}
        seen = clock.sample(cell.call, device, measure, measure.budget_s, first_s).fields()
    now = environment.cpu_waiting_s()
    if waited is not None and now is not None:
        seen["cpu_pressure"] = (now - waited) / (first_s + sum(seen["warmup_s"]) + seen["sampling_wall_s"])
    seen |= {"gpu_before": gpu, "gpu_after": _gpu(cell)}
    yield seen | counters.compilation()
    first_s, _ = clock.timed(gradient, device)
    yield {"gradient_s": clock.sample(gradient, device, measure, measure.budget_s / 10, first_s).times_s}


def _gpu(cell: Cell) -> str | None:
    query = "clocks.sm,clocks.mem,clocks_throttle_reasons.active"
    return environment.gpu_state(query, cell.job.device) if cell.device.type == "cuda" else None


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
    _warm_up(cell)
    if counters.unseen():
        return
    peak, allocations = memory.tensor_peak(cell.call, cell.device)
    yield {"tensor_peak_bytes": peak, "allocations": allocations}
    if not counters.compilation():
        yield counters.count(cell.call)


def _process(cell: Cell) -> Fields:
    memory.prepare_process_peak()
    _warm_up(cell)
    yield {"process_peak_bytes": memory.process_peak(cell.call)}


def _agreement(cell: Cell) -> Fields:
    job, theta = cell.job, cell.problem.theta
    before = _surroundings(cell)
    result = agreement.plain(cell.call())
    fault = agreement.contract(result, job.quantity, theta, cell.vectors, cell.problem.sizes)
    if fault is not None:
        yield {"status": "wrong", "message": f"{job.target} {fault}"}
        return
    changed = [name for name, value in _surroundings(cell).items() if not agreement.same(value, before[name])]
    if changed:
        message = (
            f"{job.target} changed {', '.join(changed)}; a method must leave its arguments and torch's global state "
        )
        yield {"status": "error", "message": message + "as it found them: work on copies, restore what it sets"}
        return
    several: Any = result if isinstance(result, tuple | list) else [result]  # blocks, or an estimate and its error
    held = [entry for entry in several if isinstance(entry, Tensor)]
    tensors = held[:1] if agreement.is_estimate(result) else held
    yield {"output_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held)}
    exact = cell.problem.to("cpu", torch.float64)
    vectors = None if cell.vectors is None else cell.vectors.to("cpu", torch.float64)
    truth = reference(exact, vectors, job.measure, job.seed + 2, job.quantity, job.stop_gradient)
    hessian = None
    if job.quantity == "ggn":
        hessian = reference(exact, None, job.measure, job.seed + 2, stop_gradient=job.stop_gradient)
    seen = agreement.compare(result, job.quantity, truth, hessian)
    yield {"status": "ok"} | seen | ({} if seen["nonfinite"] else {"sketch": fingerprint.sketch(tensors)})
    module = inspect.getmodule(inspect.unwrap(_function(job)))  # a verdict stands if explaining never ends
    yield {"explained": explained(module, cell.offered | {"quantity": job.quantity})}


def _surroundings(cell: Cell) -> dict[str, Any]:
    """Copies of all that a method could change and must not."""
    problem = cell.problem
    seen: dict[str, Any] = {
        "theta": problem.theta.detach().clone(),
        "theta.requires_grad": problem.theta.requires_grad,
        "the global random number generator": torch.get_rng_state(),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }
    if cell.device.type == "cuda":
        seen["the GPU's random number generator"] = torch.cuda.get_rng_state(cell.device)
    given = {"vectors": cell.vectors, "inputs": problem.inputs, "targets": problem.targets, "data": problem.data}
    for name, value in given.items():
        leaves = tensors_of(value)
        seen |= {f"{name}[{place}]" if len(leaves) > 1 else name: leaf.clone() for place, leaf in enumerate(leaves)}
    if problem.model is not None:
        for name, p in problem.model.named_parameters():
            seen |= {name: p.detach().clone(), f"{name}.requires_grad": p.requires_grad, f"{name}.grad": p.grad}
        seen |= {name: b.clone() for name, b in problem.model.named_buffers()}
        seen["the model's training mode"] = problem.model.training
    return seen


PARTS = {"time": _time, "exact": _exact, "process": _process, "agreement": _agreement}
