"""The code of a method: its function, its module, a hash of its source, and the packages that it uses."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.job import OVER_BATCHES, Job
from harness.problems.source import source_hash


class MethodError(ValueError):
    """The method's path or options lead nowhere."""


class Unsupported(NotImplementedError):
    """The method does not offer this quantity, or not for this kind of problem."""


def function_of(job: Job) -> Callable[..., Any]:
    """The method's function, at the job's dotted path.

    Raises MethodError where its module cannot be imported or is not that of `job.code`, and Unsupported where a package
    is not installed or the module has no such function.
    """
    path, _, name = job.target.rpartition(".")
    module = _imported(job, path)
    file = getattr(module, "__file__", None)
    if job.code is not None and file is not None and not Path(file).is_relative_to(Path(job.code).resolve()):
        raise MethodError(
            f"{path} was to come from code={job.code}, which has no such module; it was found in {file}. For "
            "baseline=git:REF start in the folder that holds the methods, of a repository whose commit has them"
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise Unsupported(f"{path} has no function {name}; it offers: {', '.join(_offered(module)) or 'none'}")
    return function


def _imported(job: Job, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except (ImportError, ValueError) as error:
        package = (error.name or "") if isinstance(error, ModuleNotFoundError) else path
        module_is_there = not f"{path}.".startswith(f"{package}.")
        if module_is_there:  # but a package that it imports is not
            raise Unsupported(
                f"{path} needs the package {package}, which is not installed: {_installation(path, package)}"
            ) from error
        raise MethodError(
            f"method._target_={job.target} cannot be imported: {error}; name a function by its dotted path, with its "
            "package installed or in the current directory"
        ) from error


def _installation(path: str, package: str) -> str:
    """How the package that a module needs is installed."""
    if not path.startswith("methods.peers."):
        return f"install {package}"
    extra = "jax" if package.startswith("jax") else "peers"
    return f"pip install '.[{extra}]'"


def _offered(module: ModuleType) -> list[str]:
    """Names of the public functions that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def parameter_names(job: Job) -> list[str]:
    """The names of the method's parameters."""
    return list(inspect.signature(function_of(job)).parameters)


def module_of(job: Job) -> ModuleType | None:
    """The module in which the method's function is defined."""
    return inspect.getmodule(inspect.unwrap(function_of(job)))


def provenance(job: Job) -> dict[str, Any]:
    """The fields `method_hash` and `packages` of a record."""
    module = module_of(job)
    options = json.dumps(job.method_options, sort_keys=True)
    may_be_of_batches = not job.problem_target.startswith("harness.")  # a user's builder, which is not called here
    if job.batches is not None or may_be_of_batches:
        options += source_hash(OVER_BATCHES)
    return {
        "method_hash": source_hash(job.target, options=options),
        "packages": None if module is None else _packages(module),
    }


def _packages(module: ModuleType) -> str | None:
    """Names and versions of the packages that a module uses, without its own, torch and the standard library."""
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
