"""A network's affine maps, found as it runs: their inputs and outputs, shifts added to these, their parameters held.

Linear, convolutional and embedding layers call functions of torch that a TorchFunctionMode sees, whatever module they
are in.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from methods import calls
from methods.ravel import ravel


class Refused(Exception):
    """Shifts and torch's transforms do not fit the network; the text says why."""


@dataclass(frozen=True)
class Call:
    """One call of an affine map, and how its tensors look as (N, S, features)."""

    weight: Tensor
    bias: Tensor | None
    input: Tensor
    features: Callable[[Tensor], Tensor]  # input -> a (N, S, q)
    outputs: Callable[[Tensor], Tensor]  # z -> (N, S, p)
    back: Callable[[Tensor, Tensor], Tensor]  # (N, S, p) -> the shape of z
    transposed: bool = False  # whether the weight is (q, p)


def _linear(samples: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    def by_sample(y: Tensor) -> Tensor:
        return y.reshape(samples, -1, y.shape[-1])

    if input.dim() < 2 or weight.dim() != 2 or not _whole(input, samples, weight, bias):
        return None
    return Call(weight, bias, input, by_sample, by_sample, lambda e, z: e.reshape(z.shape))


def _embedding(
    samples: int,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    """A linear map of one-hot vectors, its weight transposed."""
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        return None
    if not input.dim() or not _whole(input, samples, weight, None):
        return None

    def features(x: Tensor) -> Tensor:
        return functional.one_hot(x, len(weight)).to(weight.dtype).reshape(samples, -1, len(weight))

    def by_sample(z: Tensor) -> Tensor:
        return z.reshape(samples, -1, z.shape[-1])

    return Call(weight, None, input, features, by_sample, lambda e, z: e.reshape(z.shape), transposed=True)


def _convolution(
    samples: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call | None:
    """A linear map of patches; a one-dimensional one has height 1."""
    flat = weight.dim() == 3
    if (
        groups != 1
        or isinstance(padding, str)
        or input.dim() != weight.dim()
        or not _whole(input, samples, weight, bias)
    ):
        return None

    def both(value: Any, height: int) -> Any:
        return (height, value if isinstance(value, int) else value[-1]) if flat else value

    kernel = both(tuple(weight.shape[2:]), 1)
    options = {"dilation": both(dilation, 1), "padding": both(padding, 0), "stride": both(stride, 1)}

    def features(x: Tensor) -> Tensor:
        patches = functional.unfold(x.unsqueeze(2) if flat else x, kernel, **options)
        return patches.transpose(1, 2).reshape(samples, -1, patches.shape[1])

    def by_sample(z: Tensor) -> Tensor:
        return z.flatten(2).transpose(1, 2).reshape(samples, -1, z.shape[1])

    def back(e: Tensor, z: Tensor) -> Tensor:
        return e.reshape(len(z), -1, z.shape[1]).transpose(1, 2).reshape(z.shape)

    return Call(weight, bias, input, features, by_sample, back)


def _whole(input: Tensor, samples: int, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether an input holds the same number of positions for each sample, and a bias one entry for each output."""
    return input.shape[0] % max(samples, 1) == 0 < len(input) and (bias is None or bias.shape == weight.shape[:1])


_AFFINE = {
    functional.linear: _linear,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.embedding: _embedding,
}


class _Shifted(TorchFunctionMode):
    """Holds fixed the parameters of the affine maps, and adds to the output of each of their calls its shift.

    A parameter that such a map also takes as its input is held as its weight alone. What is computed under `no_grad` is
    held too, since torch's forward mode would differentiate it.
    """

    def __init__(
        self, fixed: set[int], samples: int, shift: Callable[[int, Tensor], Tensor], precision: torch.dtype
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.precision = precision  # the lowest that was met on the way from the parameters
        self._fixed, self._samples, self._shift = fixed, samples, shift

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
            return _REWRITTEN[function](*args, **kwargs)
        seen = function in _AFFINE and torch.is_grad_enabled()
        call = _AFFINE[function](self._samples, *args, **kwargs) if seen else None
        if call is None or not self._fixed.intersection((id(call.weight), id(call.bias))):
            return function(*args, **kwargs)
        held = {name: value if name == "input" else self._held(value) for name, value in kwargs.items()}
        z = function(*args[:1], *map(self._held, args[1:]), **held)
        self.calls.append(call)
        return z + call.back(self._shift(len(self.calls) - 1, call.outputs(z)), z)

    def _held(self, value: Any) -> Any:
        return value.detach() if id(value) in self._fixed else value


def _squared_error(input: Tensor, target: Tensor, *options: Any, reduction: str = "mean", **named: Any) -> Tensor:
    if any(option is not None for option in (*options, *named.values())):
        return functional.mse_loss(input, target, *options, reduction=reduction, **named)
    squares = (input - target).square()
    return {"mean": squares.mean, "sum": squares.sum, "none": lambda: squares}[reduction]()


def _huber(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    if weight is not None:
        return functional.huber_loss(input, target, reduction, delta, **{"weight": weight})
    distance = (input - target).abs()
    losses = torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def _weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    return direction * (length / torch.norm_except_dim(direction, 2, dim))


# Of the losses torch has no jvp of the gradient, of weight_norm a wrong double backward (torch 2.13).
_REWRITTEN = {
    functional.mse_loss: _squared_error,
    functional.huber_loss: _huber,
    vars(torch)["_weight_norm"]: _weight_norm,
}

# What torch's transforms cannot take, or take wrongly without a word (torch 2.13), and so is not tried. A gradient
# within the forward pass would not see the parameters that are held.
_REFUSED = {
    torch.autograd.grad: "the forward pass takes a gradient itself",
    Tensor.backward: "the forward pass takes a gradient itself",
    functional.group_norm: "torch has no right rule to batch the forward derivative of group_norm",
}


class _Plain(TorchFunctionMode):
    """Only puts in the place of weight_norm what it stands for, since its double backward is wrong.

    Hooks that the network registers on gradients of activations are noticed, and left out where that is asked for.
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
        function = _weight_norm if function is vars(torch)["_weight_norm"] else function
        return function(*args, **(kwargs or {}))


class Network:
    """The loss as a function of shifts of its affine maps' outputs; where its parameters lie in theta."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> None:
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = {id(p): name for name, p in self.params.items()}
        self.theta, _ = ravel(model)
        ends = [0, *itertools.accumulate(p.numel() for p in self.params.values())]
        self.span = {name: slice(*pair) for name, pair in zip(self.params, itertools.pairwise(ends), strict=True)}
        self.hooked = False  # whether there are hooks on gradients, once the loss was evaluated
        self.precision = self.theta.dtype  # the lowest on the way from the parameters to the loss, once it was traced
        self._model, self._criterion, self._inputs, self._targets = model, criterion, inputs, targets
        self._samples = next((len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()), 1)

    def plain(self, hooks: bool = True) -> Tensor:
        """The loss () as anyone would evaluate it; only weight_norm is written out. Without `hooks` see `unhooked`."""
        with _Plain(hooks) as plain, sdpa_kernel(SDPBackend.MATH):
            value = self._scalar(self._criterion(self._outputs(), self._targets))
        self.hooked = plain.hooked or any(holder for holder, _ in self._hooks())
        return value

    @contextlib.contextmanager
    def unhooked(self) -> Iterator[None]:
        """Takes the hooks on gradients off parameters and modules, and puts them on again."""
        with contextlib.ExitStack() as restored:
            for _, (owner, name, hooks) in self._hooks():
                restored.callback(setattr, owner, name, hooks)
                setattr(owner, name, None if isinstance(owner, Tensor) else type(hooks)())
            yield

    def _hooks(self) -> Iterator[tuple[bool, tuple[Any, str, Any]]]:
        """Whether there are hooks on gradients; the parameter or module, the attribute and its hooks."""
        owners = [(p, ("_backward_hooks",)) for p in self.params.values()]
        owners += [(module, ("_backward_hooks", "_backward_pre_hooks")) for module in self._model.modules()]
        for owner, names in owners:
            for name in names:
                hooks = getattr(owner, name)
                yield bool(hooks), (owner, name, hooks)

    def loss(self, fixed: Iterable[str], shift: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Call]]:
        """The loss (), and the calls of affine maps of parameters that are `fixed`, shifted by `shift(place, z)`.

        Raises Refused where parameters are fixed and the network does what torch's transforms do not take.
        """
        shifted = self._shifted(fixed, shift)
        with shifted, sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
            value = self._criterion(self._outputs(), self._targets)
        self.precision = shifted.precision
        return self._scalar(value), shifted.calls

    def traced_outputs(self, fixed: Iterable[str]) -> tuple[Any, list[Tensor], list[Tensor]]:
        """The network's outputs, those of its affine maps (N, S, p) before the shifts, and the shifts of zero."""
        maps: list[Tensor] = []
        shifts: list[Tensor] = []

        def shift(place: int, z: Tensor) -> Tensor:
            maps.append(z)
            shifts.append(torch.zeros_like(z).requires_grad_())
            return shifts[place]

        with self._shifted(fixed, shift), sdpa_kernel(SDPBackend.MATH):
            return self._outputs(), maps, shifts

    def criterion(self, outputs: Any) -> Tensor:
        """The loss () of outputs."""
        with self._shifted((), lambda place, z: z):
            return self._criterion(outputs, self._targets)

    def traced(self, fixed: Iterable[str]) -> tuple[Tensor, list[Call], list[Tensor]]:
        """The same at shifts of zero (N, S, p), and these, of which the loss keeps a graph."""
        shifts: list[Tensor] = []

        def shift(place: int, z: Tensor) -> Tensor:
            shifts.append(torch.zeros_like(z).requires_grad_())
            return shifts[place]

        return *self.loss(fixed, shift), shifts

    def _shifted(self, fixed: Iterable[str], shift: Callable[[int, Tensor], Tensor]) -> _Shifted:
        return _Shifted({id(self.params[name]) for name in fixed}, self._samples, shift, self.theta.dtype)

    def _outputs(self) -> Any:
        return calls.call(self._model, self._buffers(), self._inputs)

    def _scalar(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.dim():
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loss must be a scalar (a tensor of shape ()), found {found}")
        return value

    def _buffers(self) -> dict[str, Tensor]:
        """Copies, since a call may change them, in training or not."""
        return {name: buffer.clone() for name, buffer in self._model.named_buffers()}

    def owners(self, call: Call) -> set[str]:
        """The parameters of a call."""
        return {self.names[id(p)] for p in (call.weight, call.bias) if id(p) in self.names}
