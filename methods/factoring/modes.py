"""How a network is watched while it runs: modes that see each function of torch it calls, whatever module calls it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from methods.factoring.affine import AFFINE, Call, by_entries
from methods.factoring.refusals import Refused
from methods.factoring.tape import Tape

Shift = Callable[[int, Tensor], Tensor]  # index of a call and its outputs z (N, S, p) -> their shift (N, S, p)


class ShiftMode(TorchFunctionMode):
    """Holds the parameters of affine maps fixed, and adds a shift to the output of each call of these maps.

    A parameter is held where it is a weight or bias, and not where it is the input of an affine map. What the network
    computes under `no_grad` is detached, since torch's forward mode would differentiate it.
    """

    def __init__(
        self,
        fixed: set[int],
        samples: int,
        shift: Shift,
        precision: torch.dtype,
        by_entries: bool,
        tape: Tape | None = None,
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.precision = precision  # the lowest precision of a result that depends on the parameters
        self._fixed, self._samples, self._shift = fixed, samples, shift  # `fixed` holds the ids of parameters
        self._by_entries = by_entries  # whether maps with many positions are shifted in their parameters' entries
        self._tape = tape

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function of torch that the network and the criterion call."""
        if self._fixed and function in _REFUSED:
            raise Refused(_REFUSED[function])
        result = self._result(function, args, kwargs or {})
        if isinstance(result, Tensor) and result.is_floating_point() and result.requires_grad:
            self.precision = max(self.precision, result.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        return result if torch.is_grad_enabled() else tree_map_only(Tensor, Tensor.detach, result)

    def _result(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if function in _REWRITTEN:
            return self._run(_REWRITTEN[function], args, kwargs)
        watched = function in AFFINE and torch.is_grad_enabled()
        call = AFFINE[function](self._samples, *args, **kwargs) if watched else None
        if call is None or not call.weight.numel() or not self._fixed.intersection((id(call.weight), id(call.bias))):
            return self._run(function, args, kwargs)
        held = {name: value if name == "input" else self._held(value) for name, value in kwargs.items()}
        z = self._run(function, (*args[:1], *map(self._held, args[1:])), held)
        for shifted in self._shifted(call, z):
            self.calls.append(shifted)
            index = len(self.calls) - 1
            shift = self._shift(index, shifted.outputs(z))
            z = self._run(partial(_plus, shifted, shift), (z, shifted.input), {}, index)
        return z

    def _run(self, function: Any, args: Any, kwargs: Any, call: int | None = None) -> Any:
        return function(*args, **kwargs) if self._tape is None else self._tape.run(function, args, kwargs, call)

    def _shifted(self, call: Call, z: Tensor) -> list[Call]:
        """The call with a shift of its outputs z, or one for each parameter where that takes fewer shifts."""
        outputs = call.outputs(z)
        inputs = call.weight.numel() // outputs.shape[2]
        if not self._by_entries or outputs.shape[1] < inputs:
            return [call]
        params = [param for param in (call.weight, call.bias) if id(param) in self._fixed and param is not None]
        return [by_entries(call, param, self._samples) for param in params]

    def _held(self, value: Any) -> Any:
        return value.detach() if id(value) in self._fixed else value


class PlainMode(TorchFunctionMode):
    """Changes one thing: weight_norm is written out, since its double backward is wrong (torch 2.13).

    It notices hooks that the network registers on activations, and leaves them out unless `hooks` is set.
    """

    def __init__(self, hooks: bool) -> None:
        super().__init__()
        self.hooked, self._hooks = False, hooks

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function of torch that the network and the criterion call."""
        if function is Tensor.register_hook:
            self.hooked = True
            if not self._hooks:
                return RemovableHandle(OrderedDict())
        function = _weight_norm if function is _TORCH_WEIGHT_NORM else function
        return function(*args, **(kwargs or {}))


def _plus(call: Call, shift: Tensor, z: Tensor, input: Tensor) -> Tensor:
    """The outputs of a call with a shift."""
    return z + call.change(shift, z, input)


def _squared_error(input: Tensor, target: Tensor, *options: Any, reduction: str = "mean", **named: Any) -> Tensor:
    if any(option is not None for option in (*options, *named.values())):
        return functional.mse_loss(input, target, *options, reduction=reduction, **named)
    return _reduced((input - target).square(), reduction)


def _huber(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    if weight is not None:
        return functional.huber_loss(input, target, reduction, delta, **{"weight": weight})
    distance = (input - target).abs()
    losses = torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))
    return _reduced(losses, reduction)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def _weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    return direction * (length / torch.norm_except_dim(direction, 2, dim))


_TORCH_WEIGHT_NORM = vars(torch)["_weight_norm"]

# Functions that are replaced by simpler ones of the same value (torch 2.13): torch has no forward mode of the gradient
# of the two losses, and its double backward of weight_norm is wrong.
_REWRITTEN = {
    functional.mse_loss: _squared_error,
    functional.huber_loss: _huber,
    _TORCH_WEIGHT_NORM: _weight_norm,
}

# Functions that torch's transforms do not take, or silently differentiate wrongly (torch 2.13). A gradient within the
# forward pass would not see the parameters that are held fixed.
_REFUSED = {
    torch.autograd.grad: "the forward pass takes a gradient itself",
    Tensor.backward: "the forward pass takes a gradient itself",
    functional.group_norm: "torch has no right rule to batch the forward derivative of group_norm",
}
