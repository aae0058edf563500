"""Functions taken apart, so that the tensors that they hold can be cast with the rest of a problem."""

from __future__ import annotations

import collections
import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems.errors import ProblemError

PLAIN = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, torch.dtype, torch.device)


def reduced(function: types.FunctionType, search: Search, kept: Callable[[Any], Any]) -> Any:
    """How a function is taken apart and rebuilt, in the form of `object.__reduce__`; `kept` marks what is not cast.

    A function that names tensors among the globals of its module gets a copy of these globals. Raises ProblemError
    where it also assigns to a global: the rest of the module would not see that.
    """
    named = {name: value for name, value in sorted(_globals(function).items()) if search.finds_tensors(value)}
    if named and any(step.opname == "STORE_GLOBAL" for step in dis.get_instructions(function)):
        raise ProblemError(
            f"{function.__qualname__} uses {', '.join(named)} of its module, which must be cast with the problem, and "
            "assigns to a global; give it these tensors as arguments, as data or as buffers of the model"
        )
    cells = function.__closure__ or ()
    state = {
        "attributes": {name: getattr(function, name) for name in ("__qualname__", "__module__", "__annotations__")},
        "vars": vars(function),
        "defaults": (function.__defaults__, function.__kwdefaults__),
        "cells": [(cell, content) for cell in cells for content in _content(cell)],
        "globals": named,
    }
    given = (kept(function.__code__), kept(function.__globals__), function.__name__, cells, bool(named))
    return _made, given, state, None, None, _filled


def _made(code: types.CodeType, names: dict[str, Any], name: str, cells: Any, copied: bool) -> types.FunctionType:
    return types.FunctionType(code, dict(names) if copied else names, name, None, cells)


def _filled(function: types.FunctionType, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        setattr(function, name, value)
    vars(function).update(state["vars"])
    function.__defaults__, function.__kwdefaults__ = state["defaults"]
    for cell, content in state["cells"]:
        cell.cell_contents = content
    function.__globals__.update(state["globals"])


def of_class(module: nn.Module, search: Search) -> dict[str, Any]:
    """What a module inherits from its classes, except for torch's own, that holds tensors, by name.

    A copy of the module needs these as attributes of its own: methods that close over tensors or name them among their
    module's globals, and tensors that belong to the class. Special methods are left out, since Python does not look
    them up in an instance.
    """
    found: dict[str, Any] = {}
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] == "torch" or kind is object:
            continue
        for name, value in vars(kind).items():
            if name in found or name in vars(module) or name.startswith("__") or not search.finds_tensors(value):
                continue
            if isinstance(value, types.FunctionType):
                found[name] = types.MethodType(value, module)
            elif not hasattr(type(value), "__get__"):
                found[name] = value
    return found


class Search:
    """Looks for tensors and networks in containers, functions and attributes; remembers objects without any."""

    def __init__(self) -> None:
        self._empty: set[int] = set()

    def finds_tensors(self, value: Any) -> bool:
        """Whether a value leads to tensors or networks."""
        seen: set[int] = set()
        found = self._reaches(value, seen)
        if not found:
            self._empty |= seen
        return found

    def _reaches(self, value: Any, seen: set[int]) -> bool:
        if isinstance(value, Tensor | nn.Module):
            return True
        if isinstance(value, PLAIN) or id(value) in self._empty or id(value) in seen or is_torchs_own(value):
            return False
        seen.add(id(value))
        return any(self._reaches(part, seen) for part in _parts(value))


def is_torchs_own(value: Any) -> bool:
    """Whether the class of a value belongs to torch's internals."""
    name = type(value).__module__
    return name.startswith(("torch._", "torch.library", "torch.fx", "torch.jit"))


def _parts(value: Any) -> Iterator[Any]:
    """The objects that a value consists of."""
    if isinstance(value, types.FunctionType):
        yield from (content for cell in value.__closure__ or () for content in _content(cell))
        yield from (value.__defaults__, value.__kwdefaults__)
        yield from _globals(value).values()
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from list(value.values())
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        yield from list(value)
    yield from getattr(value, "__dict__", {}).values()
    yield from (getattr(value, name, None) for name in getattr(type(value), "__slots__", ()) if isinstance(name, str))


def _content(cell: types.CellType) -> tuple[Any, ...]:
    """The content of a cell as a tuple of one; () for a cell that is still empty."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a function names; none for functions of torch and Python, whose globals hold no tensors."""
    package = str(function.__globals__.get("__name__")).split(".")[0]
    if package == "torch" or package in sys.stdlib_module_names - {"__main__"}:
        return {}
    return {name: function.__globals__[name] for name in _names(function.__code__) & function.__globals__.keys()}


def _names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in the code of a function and of the functions defined within it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)
