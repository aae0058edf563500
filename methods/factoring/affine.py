"""Calls of affine maps: linear, convolutional and embedding layers as products of features with a weight.

Each of these layers calls one function of torch. `AFFINE` gives for such a function what makes a `Call` of its
arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Call:
    """One call of an affine map, and how its tensors look with samples N, positions S and features."""

    weight: Tensor
    bias: Tensor | None
    input: Tensor
    features: Callable[[Tensor], Tensor]  # input -> a (N, S, q)
    outputs: Callable[[Tensor], Tensor]  # z -> (N, S, p)
    change: Callable[[Tensor, Tensor, Tensor], Tensor]  # e (N, S, p), z, input -> the change of z that e makes
    transposed: bool = False  # whether the weight is (q, p)
    entries: bool = False  # whether e changes the weight's entries, for each sample: S = 1, p entries, and a = 1


def _linear(samples: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    def by_sample(y: Tensor) -> Tensor:
        return y.reshape(samples, -1, y.shape[-1])

    if input.dim() < 2 or weight.dim() != 2 or not _fits(input, samples, weight, bias):
        return None
    return Call(weight, bias, input, by_sample, by_sample, lambda e, z, x: e.reshape(z.shape))


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
    """A linear map of one-hot vectors. Its weight is transposed."""
    changes_gradient = padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse
    if changes_gradient or not input.dim() or not _fits(input, samples, weight, None):
        return None

    def features(x: Tensor) -> Tensor:
        return functional.one_hot(x, len(weight)).to(weight.dtype).reshape(samples, -1, len(weight))

    def by_sample(z: Tensor) -> Tensor:
        return z.reshape(samples, -1, z.shape[-1])

    return Call(weight, None, input, features, by_sample, lambda e, z, x: e.reshape(z.shape), transposed=True)


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
    """A linear map of patches. A one-dimensional convolution is a two-dimensional one of height 1."""
    if groups != 1 or isinstance(padding, str):
        return None
    if input.dim() != weight.dim() or not _fits(input, samples, weight, bias):
        return None
    one_dimensional = weight.dim() == 3

    def both(value: Any, height: int) -> Any:
        """An option for height and width."""
        if not one_dimensional:
            return value
        return height, (value if isinstance(value, int) else value[-1])

    kernel, dilations = both(tuple(weight.shape[2:]), 1), _pair(both(dilation, 1))
    steps, (above, left) = _pair(both(stride, 1)), _pair(both(padding, 0))

    def features(x: Tensor) -> Tensor:
        """Views of patches, copied once: torch's own unfold is slow where transforms batch it."""
        image = functional.pad(x.unsqueeze(2) if one_dimensional else x, (left, left, above, above))
        for dim, size, step, apart in zip((2, 3), kernel, steps, dilations, strict=True):
            image = image.unfold(dim, apart * (size - 1) + 1, step)[..., ::apart]
        return image.permute(0, 2, 3, 1, 4, 5).reshape(samples, -1, image.shape[1] * math.prod(kernel))

    def by_sample(z: Tensor) -> Tensor:
        return z.flatten(2).transpose(1, 2).reshape(samples, -1, z.shape[1])

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return e.reshape(len(z), -1, z.shape[1]).transpose(1, 2).reshape(z.shape)

    return Call(weight, bias, input, features, by_sample, change)


def _pair(value: Any) -> tuple[int, int]:
    """An option for height and width, where one number may stand for both."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


def by_entries(call: Call, param: Tensor, samples: int) -> Call:
    """The call with a shift of each entry of one of its parameters, for each sample, instead of a shift of outputs."""

    def changes(e: Tensor, x: Tensor) -> Tensor:
        """The change (N, S, p) of the outputs when the parameter changes by e (N, 1, entries)."""
        if param is not call.weight:
            return e
        a = call.features(x)
        width = a.shape[2]
        return a @ (e.reshape(len(e), width, -1) if call.transposed else e.reshape(len(e), -1, width).mT)

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        moved = changes(e, x)
        return call.change(moved.expand(call.outputs(z).shape), z, x)

    return of_entries(param, call.input, samples, change)


def of_entries(param: Tensor, input: Tensor, samples: int, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    """A call whose shifts (N, 1, entries of the parameter) are changes of the parameter for each sample.

    `change` takes them, z and the input to the change of z. It is linear in the shifts.
    """

    def ones(x: Tensor) -> Tensor:
        return param.new_ones(samples, 1, 1)

    def outputs(z: Tensor) -> Tensor:
        return z.new_zeros(samples, 1, param.numel())

    return Call(param, None, input, ones, outputs, change, entries=True)


def _fits(input: Tensor, samples: int, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the input holds as many positions for each sample, and the bias one entry for each output."""
    whole_samples = len(input) > 0 and len(input) % max(samples, 1) == 0
    return whole_samples and (bias is None or bias.shape == weight.shape[:1])


# (samples N, arguments of the function) -> the call, or None where it is not treated as an affine map.
AFFINE: dict[Callable[..., Tensor], Callable[..., Call | None]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.embedding: _embedding,
}
