"""Parameters as a network uses them: themselves, or through views of them, each of which is linear in its entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class View:
    """A parameter, or a linear function of it that moves, repeats or leaves out entries."""

    param: Tensor
    tensor: Tensor  # the view
    of: Callable[[Tensor], Tensor] | None = None  # the same view of another tensor like `param`; None for itself
    is_memory: bool = True  # whether it is known to share the parameter's memory
    version: int = 0  # of the tensor, which counts changes in place

    def moved(self, changes: Tensor) -> Tensor:
        """How the view (N, ...) changes for each sample, if the parameter's entries change by (N, 1, entries)."""
        each = changes.reshape(len(changes), *self.param.shape)
        return each if self.of is None else torch.func.vmap(self.of)(each)

    def block(self) -> tuple[int, bool] | None:
        """The index of the view's first entry in the parameter, and whether the view is transposed.

        None unless the view, or its transpose, is a number of consecutive entries of the parameter.
        """
        if self.of is None:
            return 0, False
        if not self.is_memory or not self.param.is_contiguous():
            return None
        start = int(self.tensor.storage_offset() - self.param.storage_offset())
        if self.tensor.is_contiguous():
            return start, False
        return (start, True) if self.tensor.dim() == 2 and self.tensor.mT.is_contiguous() else None


class Views:
    """The views of some parameters that a network makes while it runs."""

    def __init__(self, fixed: set[int], samples: int) -> None:
        self._fixed, self._samples = fixed, samples  # `fixed` holds the ids of parameters
        self._views: dict[int, View] = {}  # by the id of the view
        self._derived: dict[int, Tensor] = {}  # what is computed of parameters alone, by its id
        self._positions: dict[int, Tensor] = {}  # what `torch.arange` returned and views of it, by their ids

    def of(self, value: Any) -> View | None:
        """What a tensor is a view of, if it is one and has not been changed in place."""
        if id(value) in self._fixed:
            return View(value, value)
        view = self._views.get(id(value))
        return view if view and view.tensor._version == view.version else None

    def are_of_parameters(self, values: Iterable[Any]) -> bool:
        """Whether there are tensors, all computed of parameters alone, so that they have no samples."""
        found = False
        for value in values:
            if isinstance(value, Tensor):
                found = id(value) in self._fixed or id(value) in self._views or id(value) in self._derived
                if not found:
                    return False
        return found

    def follow(self, function: Any, args: Sequence[Any], options: dict[str, Any], result: Any) -> None:
        """Note what a function makes of parameters: a view, or another tensor without samples."""
        if function is functional.embedding:
            self._look_up(result, *args, **options)
        elif function is torch.arange:
            self._positions[id(result)] = result
        elif function in _VIEWS and args:
            self._compose(function, args, options, result)
        elif isinstance(result, Tensor) and self.are_of_parameters((*args, *options.values())):
            self._derived[id(result)] = result

    def _look_up(
        self,
        result: Tensor,
        index: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        *_: Any,
        **__: Any,
    ) -> None:
        """Note rows of a parameter that are the same for all samples, as those for the positions of tokens are."""
        view = self.of(weight)
        if view and self.are_positions(index) and padding_idx is None and max_norm is None:
            self._views[id(result)] = _composed(view, lambda rows: rows[index], result, is_memory=False)

    def are_positions(self, index: Tensor) -> bool:
        """Whether an index has no samples: it comes from `torch.arange`, or its first dimension does not fit them."""
        if not index.dim() or len(index) % max(self._samples, 1):
            return index.dim() > 0
        return id(index) in self._positions and (index.dim() == 1 or len(index) == 1)

    def _compose(self, function: Any, args: Sequence[Any], options: dict[str, Any], result: Any) -> None:
        source, *rest = args
        if id(source) in self._positions and isinstance(result, Tensor):
            self._positions[id(result)] = result
        view = self.of(source)
        if view is None or not _is_plain(rest) or not _is_plain(options.values()):
            return
        again = Tensor.reshape if function is Tensor.view else function  # the change of a view may lie otherwise
        same = partial(_again, again, rest, options)
        is_memory = function not in _MAY_COPY or view.tensor.is_contiguous()
        if isinstance(result, Tensor):
            self._views[id(result)] = _composed(view, same, result, is_memory)
            return
        for index, part in enumerate(result):
            self._views[id(part)] = _composed(view, partial(_part, same, index), part, is_memory)


def _composed(view: View, function: Callable[[Tensor], Tensor], result: Tensor, is_memory: bool) -> View:
    """A function of a view."""
    before = view.of
    of = function if before is None else lambda x: function(before(x))
    return View(view.param, result, of, view.is_memory and is_memory, result._version)


def _again(function: Any, rest: Sequence[Any], options: dict[str, Any], x: Tensor) -> Any:
    return function(x, *rest, **options)


def _part(function: Callable[[Tensor], Any], index: int, x: Tensor) -> Tensor:
    return function(x)[index]


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether arguments are numbers, slices and the like; entries of a tensor would be indices."""
    return all(
        _is_plain(value) if isinstance(value, tuple | list) else isinstance(value, int | slice | None | EllipsisType)
        for value in values
    )


_NAMES = (
    "__getitem__ chunk contiguous expand flatten movedim narrow permute reshape select split squeeze swapaxes t "
    "tensor_split transpose unbind unflatten unsqueeze view"
)
_VIEWS = {getattr(owner, name) for owner in (Tensor, torch) for name in _NAMES.split() if hasattr(owner, name)}
_VIEWS |= {getattr(Tensor.T, "__get__"), getattr(Tensor.mT, "__get__")}  # noqa: B009  Tensor.T is a method to pyright
_MAY_COPY = {Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.contiguous}
