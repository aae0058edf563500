"""Functions and classes that were put in the place of others: in torch, numpy, the standard library, and the harness.

A method that replaces `torch.autograd.grad` or `time.perf_counter` changes what it is judged by.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOTS = {"torch", "numpy", "harness"} | set(sys.stdlib_module_names)
# Where a module of torch keeps what it has loaded or compiled on first use.
PRIVATE = ("torch._dynamo", "torch._inductor", "torch.fx", "torch.utils._sympy", "torch._C", "importlib", "linecache")

TORCH = str(Path(torch.__file__).parent)

Namespace = dict[str, Any]


def snapshot() -> dict[str, Namespace]:
    """The callables of each namespace by its dotted name: of modules, of torch.Tensor, and of the layers of torch.nn.

    37,000 references, in some 20 ms.
    """
    seen = {name: _callables(module.__dict__) for name, module in _modules().items()}
    return seen | {name: _callables(_resolved(kind)) for name, kind in _classes().items()}


def replaced(before: dict[str, Namespace]) -> list[str]:
    """Dotted names of what was there and is another object now, or is gone; sorted.

    What was added is left out, and what torch puts in the place of its own, as torch.compile does with torch.jit.trace.
    """
    modules, classes = _modules(), _classes()
    found = []
    for name, functions in before.items():
        kind = classes.get(name)
        now = _resolved(kind) if kind is not None else vars(modules[name]) if name in modules else functions
        changed = [key for key, value in functions.items() if now.get(key) is not value]
        found += [f"{name}.{key}" for key in changed if not _of_torch(now.get(key))]
    return sorted(found)


def _of_torch(function: Any) -> bool:
    """Whether a class or a function was written in torch, and so was whatever it wraps."""
    if isinstance(function, type):
        return function.__module__.split(".")[0] == "torch"
    code = getattr(function, "__code__", None)
    wrapped = getattr(function, "__wrapped__", None)
    return code is not None and code.co_filename.startswith(TORCH) and (wrapped is None or _of_torch(wrapped))


def _modules() -> dict[str, ModuleType]:
    return {
        name: module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.split(".")[0] in ROOTS and not name.startswith(PRIVATE)
    }


def _classes() -> dict[str, type]:
    own = {
        "torch.Tensor": torch.Tensor,
        "torch.nn.Module": torch.nn.Module,
        "torch.nn.Parameter": torch.nn.Parameter,
        "torch.autograd.Function": torch.autograd.Function,
    }
    layers = {f"torch.nn.{name}": kind for name, kind in vars(torch.nn).items() if isinstance(kind, type)}
    return layers | own


def _resolved(kind: type) -> Namespace:
    """A class's attributes with the inherited ones, as they are found when they are looked up."""
    seen: Namespace = {}
    for base in reversed(kind.__mro__):
        seen |= vars(base)
    return seen


def _callables(namespace: Any) -> Namespace:
    return {key: value for key, value in namespace.items() if callable(value)}
