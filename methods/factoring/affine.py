"""Calls of affine maps: linear, convolutional and embedding layers as products of features with a weight.

Each of these layers calls one function of torch. `AFFINE` gives for such a function what makes a `Call` of its
arguments.
"""

from __future__ import annotations

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
    back: Callable[[Tensor, Tensor], Tensor]  # e (N, S, p), z -> e in the shape of z
    transposed: bool = False  # whether the weight is (q, p)


def _linear(samples: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    def by_sample(y: Tensor) -> Tensor:
        return y.reshape(samples, -1, y.shape[-1])

    if input.dim() < 2 or weight.dim() != 2 or not _fits(input, samples, weight, bias):
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
    """A linear map of one-hot vectors. Its weight is transposed."""
    changes_gradient = padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse
    if changes_gradient or not input.dim() or not _fits(input, samples, weight, None):
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
        return height, value if isinstance(value, int) else value[-1]

    kernel = both(tuple(weight.shape[2:]), 1)
    options = {"dilation": both(dilation, 1), "padding": both(padding, 0), "stride": both(stride, 1)}

    def features(x: Tensor) -> Tensor:
        image = x.unsqueeze(2) if one_dimensional else x
        patches = functional.unfold(image, kernel, **options)
        return patches.transpose(1, 2).reshape(samples, -1, patches.shape[1])

    def by_sample(z: Tensor) -> Tensor:
        return z.flatten(2).transpose(1, 2).reshape(samples, -1, z.shape[1])

    def back(e: Tensor, z: Tensor) -> Tensor:
        return e.reshape(len(z), -1, z.shape[1]).transpose(1, 2).reshape(z.shape)

    return Call(weight, bias, input, features, by_sample, back)


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
