"""From a job to a call: find the method, give it what it asks for, and tell which code and packages it consists of."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.job import Job
from harness.problems import Problem

EVERY = ("loss", "theta", "sizes")  # problem has these; what else a method may ask for is a network's


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
    offered: dict[str, Any] = field(default_factory=dict)  # what a method may ask for, by name

    @property
    def device(self) -> torch.device:
        """Where the problem's tensors are."""
        return self.problem.theta.device


def vectors_of(job: Job, theta: Tensor) -> Tensor | None:
    """The vectors (P, k) of an hvp, standard normal, of the same dtype and device as theta; else None."""
    if job.quantity != "hvp":
        return None
    generator = torch.Generator().manual_seed(job.seed + 1)
    return torch.randn(theta.numel(), job.vectors, generator=generator, dtype=torch.float64).to(theta)


def bind(job: Job, problem: Problem) -> Cell:
    """Find the method and give it what its parameters ask for by name.

    Raises MethodError for a wrong path or option, Unsupported where the method has no such quantity or needs a
    network and the problem is a function.
    """
    function = _function(job)
    vectors = vectors_of(job, problem.theta)
    offered = {
        "loss": problem.loss,
        "theta": problem.theta,
        "vectors": vectors,
        "model": problem.model,
        "criterion": problem.criterion,
        "inputs": problem.inputs,
        "targets": problem.targets,
        "sizes": problem.sizes,
    }
    parameters = inspect.signature(function).parameters
    asked = {name: offered[name] for name in parameters if name in offered}
    absent = [name for name in asked if (vectors if name == "vectors" else problem.model) is None and name not in EVERY]
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
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and key[0] != "_"
        ]
        raise Unsupported(f"{path} has no function {name}; it offers: {', '.join(own) or 'none'}")
    return function


def asks(job: Job) -> list[str]:
    """The names of the method's parameters."""
    return list(inspect.signature(_function(job)).parameters)


def module_of(job: Job) -> ModuleType | None:
    """The module that the method's function is defined in."""
    return inspect.getmodule(inspect.unwrap(_function(job)))


def provenance(job: Job) -> dict[str, Any]:
    """The method's hash, and the versions of the packages that it uses."""
    module = module_of(job)
    return {"method_hash": _method_hash(job, module), "packages": None if module is None else _packages(module)}


def _method_hash(job: Job, module: ModuleType | None) -> str:
    """A hash of the method's source, of the modules of its own package that it imports, and of its options."""
    package = "" if module is None else module.__name__.split(".")[0]
    files = {
        found.__file__
        for name, found in list(sys.modules.items())
        if name.split(".")[0] == package and getattr(found, "__file__", None)
    }
    digest = hashlib.sha256(json.dumps(job.method_options, sort_keys=True).encode())
    for file in sorted(filter(None, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _packages(module: ModuleType) -> str | None:
    """Names and versions of the packages outside its own, torch and the standard library that a module uses."""
    origins = {
        str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).split(".")[0]
        for value in vars(module).values()
        if callable(value) or inspect.ismodule(value)
    }
    outside = origins - set(sys.stdlib_module_names) - {"", "torch", module.__name__.split(".")[0]}
    if not outside:
        return None
    distributions = metadata.packages_distributions()
    names = {name for origin in outside for name in distributions.get(origin, ())}
    return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(names)) or None
