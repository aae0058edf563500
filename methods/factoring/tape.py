"""The functions of torch that a network called, in order, so that any stretch of them can be run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.factoring.affine import Call

Shifts = Mapping[int, Tensor]  # index of a call -> its shift (N, S, p)


@dataclass(frozen=True)
class Step:
    """One function that was called, or the shift of a call of an affine map, which takes its outputs and its input."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[Tensor]
    call: int | None = None  # of a shift


class Tape:
    """The functions that a network and its criterion called, with their tensors, which stay alive.

    It cannot be run again where a function changes a tensor in place, or where a tensor comes with a graph from a place
    that the tape does not see (a custom Function, a transform within the network).
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._broken = False
        self._in_graph: dict[int, bool] = {}  # id of each result -> whether it had a graph when it was made

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, call: int | None = None) -> Any:
        """The function's result, which is recorded; with `call` that of a shift, which stands in `kwargs`."""
        tensors = list(_tensors((args, kwargs)))
        versions = None if self._broken else self._versions(tensors)
        result = function(*args, **kwargs)
        results = list(_tensors(result))
        if self._broken or not results:
            return result
        self._broken = versions is None or versions != [tensor._version for tensor in tensors]
        self.steps.append(Step(function, args, {} if call is not None else kwargs, results, call))
        self._in_graph |= {id(tensor): tensor.requires_grad for tensor in results}
        return result

    def _versions(self, tensors: Sequence[Tensor]) -> list[int] | None:
        """How often each tensor was changed in place; None where one does not come from the tape alone."""
        for tensor in tensors:
            if _is_wrapped(tensor) or tensor.is_inference():
                return None
            if tensor.requires_grad and not self._in_graph.get(id(tensor), tensor.grad_fn is None):
                return None
        return [tensor._version for tensor in tensors]

    def active(self, loss: Tensor) -> list[Step] | None:
        """The steps that shifts reach, up to the loss; None where the tape cannot be run again."""
        reached: set[int] = set()
        steps = []
        for step in self.steps:
            if step.call is not None or any(id(tensor) in reached for tensor in _tensors((step.args, step.kwargs))):
                results = {id(tensor) for tensor in step.results if tensor.requires_grad}
                if results:
                    reached |= results
                    steps.append(step)
        return None if self._broken or id(loss) not in reached else steps


def used(step: Step) -> Iterator[Tensor]:
    """The tensors that a step takes."""
    return _tensors((step.args, step.kwargs))


def replay(
    steps: Sequence[Step], values: dict[int, Tensor], calls: Sequence[Call], shifts: Shifts
) -> dict[int, Tensor]:
    """Run steps again, with the `values` of tensors by their ids, to which results are added.

    Returns the inputs of the calls whose shifts are among the steps. What is not among the values is a constant.
    """
    inputs = {}
    for step in steps:
        args, kwargs = _replaced(step.args, values), _replaced(step.kwargs, values)
        if step.call is not None:
            z, inputs[step.call] = args
            shift = shifts.get(step.call)
            result = z if shift is None else z + calls[step.call].change(shift, z, inputs[step.call])
        else:
            result = step.function(*args, **kwargs)
        for old, new in zip(step.results, _tensors(result), strict=True):
            values[id(old)] = new
    return inputs


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor belongs to one of torch's transforms."""
    functorch: Any = vars(torch._C)["_functorch"]
    return functorch.is_functorch_wrapped_tensor(tensor)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _tensors(item)


def _replaced(tree: Any, values: Mapping[int, Tensor]) -> Any:
    """Arguments with tensors replaced by values, or detached."""
    if isinstance(tree, Tensor):
        return values[id(tree)] if id(tree) in values else tree.detach()
    if type(tree) in (tuple, list):
        return type(tree)(_replaced(item, values) for item in tree)
    if type(tree) is dict:
        return {key: _replaced(item, values) for key, item in tree.items()}
    return tree
