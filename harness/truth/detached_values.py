"""Values that leave autograd's graph while a loss is computed.

A loss is called once under a mode that sees every call of torch.

- A *stop* holds a part of the loss constant by intention: `.detach()`, `.data`, `torch.no_grad()`.
- A *cut* loses the graph on the way: `torch.tensor([...])` of tensors, `.item()`, `float()`, `.tolist()`, `.numpy()`,
  `torch.autograd.grad` without create_graph.

Two things are not seen: `torch.nn.Parameter(x)`, which torch does not show to a mode, and the inside of the forward of
a `torch.autograd.Function`. The same call also finds the precision in which the loss is computed
(`harness.truth.precision`).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from harness.truth.precision import Precision, reached

STOP, CUT = "stop", "cut"
STOPS = (Tensor.detach, torch.detach, Tensor.detach_, torch.detach_, Tensor.data.__get__)  # type: ignore[attr-defined]
# Calls whose result depends on the shape of a tensor alone.
SHAPES = ("_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
LIKE = ("to", "type_as", "view_as", "expand_as", "reshape_as")  # only the first argument's values count
NOT_THE_USERS = ("torch", "contextlib", "harness.truth")  # modules whose lines a message does not name


@dataclass
class DetachedValue:
    """A value that depends on the parameters and has left the graph."""

    kind: str  # STOP or CUT
    name: str  # the call and its line
    value: Any  # a copy of what the call returned


@dataclass
class Observed:
    """What was observed in one call of a loss."""

    detached: list[DetachedValue] = field(default_factory=list)  # in the order of the calls
    inner_dtype: torch.dtype | None = None  # the coarsest that the result is made of, if below the parameters' own
    own_backward: tuple[str, ...] = ()  # names of the torch.autograd.Functions of the user

    def names(self, kinds: Collection[str]) -> tuple[str, ...]:
        """Calls of these kinds with their lines, each once."""
        return tuple(dict.fromkeys(value.name for value in self.detached if value.kind in kinds))


def observe(function: Callable[[Tensor], Any], point: Tensor) -> Observed:
    """What `function` (P,) -> tensors does at a point; nothing where it fails under the mode, as compiled code may."""
    recorder = _Recorder(point.dtype)
    try:
        with recorder:
            result = function(point.detach().requires_grad_())
    except Exception:
        return Observed()
    recorder.observed.own_backward = tuple(sorted(set(_own_backward(result))))
    recorder.observed.inner_dtype = recorder.precision.of(tree_leaves(result))
    return recorder.observed


def held(function: Callable[[Tensor], Any], observed: Observed, kinds: Collection[str]) -> Callable[[Tensor], Any]:
    """The same function with its detached values of these `kinds` held at those observed; its point must require grad.

    This is what autograd differentiates, as a function whose values can be differenced.
    """

    def with_constants(point: Tensor) -> Any:
        with _Holder(observed.detached, kinds):
            return function(point)

    return with_constants


class _DetachingMode(TorchFunctionMode):
    """Finds the calls whose result depends on the parameters and is outside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.off = False  # by torch.no_grad or set_grad_enabled; autograd.Function's own is not seen here

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = getattr(func, "__name__", "")
        given = given[:1] if name in LIKE else given
        attached = any(leaf.requires_grad for leaf in given)
        result = func(*args, **(kwargs or {}))
        if func is torch._C._set_grad_enabled:
            self.off = not args[0]
            return result
        if name.endswith(SHAPES):
            return result
        self.look(func, given, attached, result)
        kind = self._kind(func, result) if attached else None
        return result if kind is None else self.detach(kind, func, result, args)

    def _kind(self, func: Callable[..., Any], result: Any) -> str | None:
        """STOP or CUT for a call that leaves the graph; None for another."""
        if func in STOPS:
            return STOP
        if not any(_is_constant(leaf) for leaf in tree_leaves(result)):
            return None
        if self.off or torch.is_inference_mode_enabled():
            return STOP
        return CUT if torch.is_grad_enabled() else None  # off, but by an autograd.Function, whose backward answers

    def look(self, func: Callable[..., Any], given: list[Tensor], attached: bool, result: Any) -> None:
        """Notice a call."""

    def detach(self, kind: str, func: Callable[..., Any], result: Any, args: tuple[Any, ...]) -> Any:
        """What a call that leaves the graph is to return."""
        raise NotImplementedError


class _Recorder(_DetachingMode):
    """Records the values that leave the graph."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.observed = Observed()
        self.precision = Precision(dtype)
        # Tensors made from detached values -> the indices of these.
        self._sources = WeakIdKeyDictionary()

    def look(self, func: Callable[..., Any], given: list[Tensor], attached: bool, result: Any) -> None:
        sources = {index for leaf in given for index in self._sources.get(leaf) or ()}
        self.precision.look(func, given, attached or bool(sources), result)
        if not attached and not sources:
            return
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                if not attached:
                    self._sources[leaf] = sources
            elif _is_constant(leaf):  # detached, and then taken out of torch
                for index in sources:
                    self.observed.detached[index].kind = CUT
                    self.observed.detached[index].name = f"{_name(func)} of a detached tensor ({_line()})"

    def detach(self, kind: str, func: Callable[..., Any], result: Any, args: tuple[Any, ...]) -> Any:
        index = len(self.observed.detached)
        name = "torch.no_grad" if kind == STOP and func not in STOPS else _name(func)
        self.observed.detached.append(DetachedValue(kind, f"{name} ({_line()})", _copied(result)))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._sources[leaf] = {index}
        return result


class _Holder(_DetachingMode):
    """Returns the recorded values for the calls that leave the graph."""

    def __init__(self, detached: list[DetachedValue], kinds: Collection[str]) -> None:
        super().__init__()
        self._left, self._kinds = iter(detached), kinds

    def detach(self, kind: str, func: Callable[..., Any], result: Any, args: tuple[Any, ...]) -> Any:
        before = next(self._left, None)
        if before is None or before.kind not in self._kinds:
            return result
        in_place = getattr(func, "__name__", "").endswith("_")
        if in_place and args and result is args[0]:
            return result.copy_(before.value)
        return _copied(before.value)


def _is_constant(value: Any) -> bool:
    """Whether a value is of real numbers that no gradient leads back from."""
    if isinstance(value, Tensor):
        return (value.is_floating_point() or value.is_complex()) and not value.requires_grad
    return isinstance(value, float | complex) or getattr(getattr(value, "dtype", None), "kind", "") in {"f", "c"}


def _copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else copy.copy(leaf), value)


def _name(func: Callable[..., Any]) -> str:
    name = resolve_name(func) or getattr(func, "__name__", "torch")
    if func is torch.autograd.grad:
        return "torch.autograd.grad without create_graph=True"
    return {"torch.Tensor.data.__get__": "torch.Tensor.data", "torch.Tensor.__float__": "float()"}.get(name, name)


def _line() -> str:
    """File and line of the innermost call outside torch and this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not any(module == name or module.startswith(f"{name}.") for name in NOT_THE_USERS):
            break
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _own_backward(result: Any) -> Iterator[str]:
    """Names of the torch.autograd.Functions outside torch in the graph of what a function returned."""
    for node in reached(tree_leaves(result)):
        function = getattr(node, "_forward_cls", None)
        if function is not None and not function.__module__.startswith("torch."):
            yield function.__name__
