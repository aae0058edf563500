"""Copies of what a method is given: theta, vectors, the network with its criterion, inputs, targets and data."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems import tensors_of
from harness.problems.binding import Cell
from harness.truth import traces

PLAIN = (bool, int, float, complex, str, type(None))  # kinds of attributes that are compared by value
READ_APART = {"_parameters", "_buffers", "_modules", "training"}  # of a module's attributes
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def read(cell: Cell, volatile: Set[str]) -> dict[str, Any]:
    """Every part by its name, tensors as copies on the CPU; None for what is named in `volatile`."""
    problem = cell.problem
    seen = _tensor("theta", problem.theta)
    given = {"vectors": cell.vectors, "inputs": problem.inputs, "targets": problem.targets, "data": problem.data}
    for name, value in given.items():
        leaves = tensors_of(value)
        for place, leaf in enumerate(leaves):
            seen |= _tensor(f"{name}[{place}]" if len(leaves) > 1 else name, leaf)
    for path, module in _modules(cell):
        seen |= _module(path, module)
    return seen | {name: _plain(value) for name, value in _attributes(cell)} | dict.fromkeys(volatile)


def volatile(cell: Cell) -> set[str]:
    """Names of what one call of the loss changes itself: attributes of modules, or parts of the process's state.

    Such as an activation that is kept, or the random number generator that a criterion draws from.
    """
    state, before = traces.read(), dict(_attributes(cell))
    cell.problem.loss(cell.problem.theta.detach().requires_grad_())
    after, later = dict(_attributes(cell)), traces.read()
    names = {name for name in before | after if name not in before or after.get(name) is not before[name]}
    return names | {name for name in state | later if not _alike(state.get(name), later.get(name))}


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _modules(cell: Cell) -> Iterator[tuple[str, nn.Module]]:
    for root, module in (("", cell.problem.model), ("criterion", cell.problem.criterion)):
        if isinstance(module, nn.Module):
            yield from module.named_modules(prefix=root)


def _module(path: str, module: nn.Module) -> dict[str, Any]:
    """The parameters and buffers of one module by their names, and its mode, hooks and kind."""
    label, dotted = path or "model", f"{path}." if path else ""
    seen: dict[str, Any] = {f"{label}.training": module.training, f"the module {label}": (id(module),)}
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            seen |= _tensor(dotted + name, tensor)
    hooks = {key: value for key, value in vars(module).items() if _is_hooks(key)}
    return seen | {f"{label}.{key}": tuple(map(id, value.values())) for key, value in hooks.items() if value}


def _is_hooks(key: str) -> bool:
    return key.startswith("_") and "hooks" in key


def _attributes(cell: Cell) -> Iterator[tuple[str, Any]]:
    """What else the modules hold, by its name."""
    for path, module in _modules(cell):
        for key, value in list(vars(module).items()):
            if key not in READ_APART and not _is_hooks(key):
                yield f"{path or 'model'}.{key}", value


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _copy(value)
    return value if isinstance(value, PLAIN) else (type(value).__name__, id(value))


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    seen: dict[str, Any] = {name: _copy(tensor), f"{name}.requires_grad": tensor.requires_grad}
    if tensor.is_leaf and tensor.grad is not None:
        seen[f"{name}.grad"] = _copy(tensor.grad)
    hooks = {key: getattr(tensor, key, None) for key in TENSOR_HOOKS}
    return seen | {f"{name}.{key}": tuple(map(id, value.values())) for key, value in hooks.items() if value}


def _copy(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        tensor = tensor.detach()
        return (tensor if tensor.layout == torch.strided else tensor.to_dense()).to("cpu", copy=True)
