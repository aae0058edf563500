"""Functions and classes that a method has replaced: in torch, numpy, the standard library, and the harness.

A method that replaces `torch.autograd.grad` or `time.perf_counter` changes what it is judged by.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGES = {"torch", "numpy", "harness"} | set(sys.stdlib_module_names)
# Modules that keep what they have loaded or compiled on first use.
WITH_CACHES = (
    "torch._dynamo",
    "torch._inductor",
    "torch.fx",
    "torch.utils._sympy",
    "torch._C",
    "importlib",
    "linecache",
)
TORCH = str(Path(torch.__file__).parent)

Namespace = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """Copies of namespaces: of modules by their dotted names, of classes with their dotted names."""

    modules: dict[str, Namespace]
    classes: dict[type, tuple[str, Namespace]]


def snapshot() -> Snapshot:
    """What modules hold, and what torch.Tensor, the layers of torch.nn and their base classes hold."""
    named = {"torch.Tensor": torch.Tensor, "torch.autograd.Function": torch.autograd.Function}
    named |= {f"torch.nn.{name}": kind for name, kind in vars(torch.nn).items() if isinstance(kind, type)}
    bases = {base: f"{base.__module__}.{base.__name__}" for kind in named.values() for base in kind.__mro__}
    names = bases | {kind: name for name, kind in named.items()}
    modules = {name: dict(vars(module)) for name, module in _modules().items()}
    return Snapshot(modules, {kind: (name, dict(vars(kind))) for kind, name in names.items() if kind is not object})


def patched(before: Snapshot) -> list[str]:
    """Dotted names of functions and classes that are other objects now, or are gone; sorted.

    Additions are left out, unless they hide what a class inherits. So is what torch replaces by its own, as
    torch.compile does with torch.jit.trace.
    """
    modules, found = _modules(), []
    for name, held in before.modules.items():
        now = vars(modules[name]) if name in modules else held
        found += [f"{name}.{key}" for key in _changed(held, now)]
    for kind, (name, held) in before.classes.items():
        now = vars(kind)
        added = [key for key in now if key not in held] if len(now) != len(held) else []
        hiding = [key for key in added if any(key in vars(base) for base in kind.__mro__[1:])]
        found += [f"{name}.{key}" for key in (*_changed(held, now), *hiding)]
    return sorted(found)


def _changed(held: Namespace, now: Mapping[str, Any]) -> list[str]:
    """Names of callables that are others now."""
    # This is nearly always so, and fast to see, since a dict keeps its order.
    if len(held) == len(now) and all(map(operator.is_, held.values(), now.values())):
        return []
    changed = [key for key, value in held.items() if now.get(key) is not value and callable(value)]
    return [key for key in changed if not _is_torchs(now.get(key))]


def _is_torchs(function: Any) -> bool:
    """Whether torch defines a class, or a function and whatever it wraps."""
    if isinstance(function, type):
        return function.__module__.split(".")[0] == "torch"
    code = getattr(function, "__code__", None)
    wrapped = getattr(function, "__wrapped__", None)
    return code is not None and code.co_filename.startswith(TORCH) and (wrapped is None or _is_torchs(wrapped))


def _modules() -> dict[str, ModuleType]:
    """The imported modules of PACKAGES, by their names."""
    loaded = {name: module for name, module in list(sys.modules.items()) if isinstance(module, ModuleType)}
    return {
        name: module
        for name, module in loaded.items()
        if name.split(".")[0] in PACKAGES and not name.startswith(WITH_CACHES)
    }
