"""How a network is watched while it runs: modes that see each function of torch it calls, whatever module calls it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from methods.factoring.affine import Call, Seen, shifted
from methods.factoring.maps import AFFINE
from methods.factoring.refusals import Refused
from methods.factoring.tape import Tape
from methods.factoring.views import Views
from methods.factoring.written import REPAIRED, WRITTEN, weight_norm

Shift = Callable[[int, Tensor], Tensor]  # index of a call and its outputs z (N, S, p) -> their shift (N, S, p)


class ShiftMode(TorchFunctionMode):
    """Holds the parameters of affine maps fixed, and adds a shift to the output of each call of these maps.

    A parameter is held where it, or a view of it, is a weight or bias, and not where it is the input of an affine map.
    What the network computes under `no_grad` is detached, since torch's forward mode would differentiate it.
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
        self._views = Views(fixed, samples)
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
        if function in REPAIRED:
            return self._run(REPAIRED[function], args, kwargs)
        if not self._fixed or not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if function in WRITTEN:
            with self:  # the functions that it is written out by are seen too
                result = WRITTEN[function](*args, **kwargs)
            if result is not None:
                return result
        call = None
        if function in AFFINE and any(self._views.of(value) for value in (*args, *kwargs.values())):
            call = AFFINE[function](Seen(function, self._samples, self._views), *args, **kwargs)
        if call is None or not call.weight.numel() or self._views.are_of_parameters([call.input]):
            result = self._run(function, args, kwargs)
            self._views.follow(function, args, kwargs, result)
            return result
        return self._moved(call, function, args, kwargs)

    def _moved(self, call: Call, function: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """What an affine map returns of parameters that are held fixed, with shifts."""
        held = tuple(self._held(value, call) for value in args)
        z = self._run(function, held, {name: self._held(value, call) for name, value in kwargs.items()})
        outputs = call.outputs(z)
        many = self._by_entries and outputs.shape[1] >= call.weight.numel() // outputs.shape[2]
        for each in shifted(call, self._views, self._samples, many):
            self.calls.append(each)
            index = len(self.calls) - 1
            shift = self._shift(index, each.outputs(z))
            z = self._run(partial(_plus, each, shift), (z, each.input), {}, index)
        return z

    def _run(self, function: Any, args: Any, kwargs: Any, call: int | None = None) -> Any:
        return function(*args, **kwargs) if self._tape is None else self._tape.run(function, args, kwargs, call)

    def _held(self, value: Any, call: Call) -> Any:
        return value.detach() if value is not call.input and self._views.of(value) else value


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
        function = weight_norm if function is vars(torch)["_weight_norm"] else function
        return function(*args, **(kwargs or {}))


def _plus(call: Call, shift: Tensor, z: Tensor, input: Tensor) -> Tensor:
    """The outputs of a call with a shift."""
    return z + call.change(shift, z, input)


# Functions that torch's transforms do not take, or silently differentiate wrongly (torch 2.13). A gradient within the
# forward pass would not see the parameters that are held fixed.
_REFUSED = {
    torch.autograd.grad: "the forward pass takes a gradient itself",
    Tensor.backward: "the forward pass takes a gradient itself",
}
