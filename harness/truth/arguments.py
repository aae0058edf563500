"""Copies of what a method is given: theta, vectors, the network with its criterion, inputs, targets and data."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems import tensors_of
from harness.problems.binding import BoundMethod
from harness.truth import process_state

COMPARED_BY_VALUE = (bool, int, float, complex, str, type(None))  # types of attributes
READ_APART = {"_parameters", "_buffers", "_modules", "training"}  # attributes of a module that `_module` reads
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def read(bound: BoundMethod, volatile: Set[str]) -> dict[str, Any]:
    """Every part of the arguments by its name, tensors as copies on the CPU; None for the names in `volatile`."""
    problem = bound.problem
    parts = _tensor("theta", problem.theta)
    given = {"vectors": bound.vectors, "inputs": problem.inputs, "targets": problem.targets, "data": problem.data}
    for name, value in given.items():
        leaves = tensors_of(value)
        for index, leaf in enumerate(leaves):
            parts |= _tensor(f"{name}[{index}]" if len(leaves) > 1 else name, leaf)
    for path, module in _modules(bound):
        parts |= _module(path, module)
    return parts | {name: _comparable(value) for name, value in _attributes(bound)} | dict.fromkeys(volatile)


def volatile(bound: BoundMethod) -> set[str]:
    """Names of what one call of the loss changes: attributes of modules, or parts of the process's state.

    Examples are an activation that a module keeps, and the random number generator that a criterion draws from.
    """
    state, before = process_state.read(), dict(_attributes(bound))
    bound.problem.loss(bound.problem.theta.detach().requires_grad_())
    after, later = dict(_attributes(bound)), process_state.read()
    names = {name for name in before | after if name not in before or after.get(name) is not before[name]}
    return names | {name for name in state | later if not _equal(state.get(name), later.get(name))}


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _modules(bound: BoundMethod) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the network and of its criterion, by their paths."""
    for root, module in (("", bound.problem.model), ("criterion", bound.problem.criterion)):
        if isinstance(module, nn.Module):
            yield from module.named_modules(prefix=root)


def _module(path: str, module: nn.Module) -> dict[str, Any]:
    """The parameters and buffers of one module by their names, its mode, its hooks and its identity."""
    label, prefix = (path, f"{path}.") if path else ("model", "")
    parts: dict[str, Any] = {f"{label}.training": module.training, f"the module {label}": (id(module),)}
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            parts |= _tensor(prefix + name, tensor)
    hooks = {key: value for key, value in vars(module).items() if _is_hooks(key)}
    return parts | _identities(label, hooks)


def _is_hooks(key: str) -> bool:
    return key.startswith("_") and "hooks" in key


def _identities(label: str, hooks: dict[str, Any]) -> dict[str, Any]:
    """The identities of the hooks in each dictionary that has any."""
    return {f"{label}.{key}": tuple(map(id, value.values())) for key, value in hooks.items() if value}


def _attributes(bound: BoundMethod) -> Iterator[tuple[str, Any]]:
    """The other attributes of the modules, by their names."""
    for path, module in _modules(bound):
        for key, value in list(vars(module).items()):
            if key not in READ_APART and not _is_hooks(key):
                yield f"{path or 'model'}.{key}", value


def _comparable(value: Any) -> Any:
    """A value to compare an attribute by: a copy of a tensor, a plain value, or the identity of an object."""
    if isinstance(value, Tensor):
        return _copy(value)
    return value if isinstance(value, COMPARED_BY_VALUE) else (type(value).__name__, id(value))


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    """Copies of a tensor and of its gradient, whether it requires a gradient, and the identities of its hooks."""
    parts: dict[str, Any] = {name: _copy(tensor), f"{name}.requires_grad": tensor.requires_grad}
    if tensor.is_leaf and tensor.grad is not None:
        parts[f"{name}.grad"] = _copy(tensor.grad)
    return parts | _identities(name, {key: getattr(tensor, key, None) for key in TENSOR_HOOKS})


def _copy(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        tensor = tensor.detach()
        return (tensor if tensor.layout == torch.strided else tensor.to_dense()).to("cpu", copy=True)
