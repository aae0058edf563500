"""Normalisations, written out as one without parameters, a product and a sum. Results and arguments are torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.layer_norm`."""
    return _scaled(torch.layer_norm(input, normalized_shape, None, None, eps), weight, bias)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`functional.rms_norm`."""
    return _scaled(torch.rms_norm(input, normalized_shape, None, eps), weight, None)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`functional.group_norm`, by means and variances: torch batches the forward derivative of its own wrongly."""
    grouped = input.reshape(len(input), num_groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    variance = centred.square().mean(2, keepdim=True)
    normalised = (centred * (variance + eps).rsqrt()).reshape(input.shape)
    return _scaled(normalised, *_of_channels(input, weight, bias))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """`functional.batch_norm` by running statistics; None where it takes those of the batch, which mix samples."""
    if training or running_mean is None or running_var is None:
        return None
    mean, variance = _of_channels(input, running_mean, running_var)
    return _scaled((input - mean) * (variance + eps).rsqrt(), *_of_channels(input, weight, bias))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """`functional.instance_norm`; None where it updates running statistics."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    return group_norm(input, input.shape[1], weight, bias, eps) if running_mean is None else None


def _of_channels(input: Tensor, *values: Tensor | None) -> list[Any]:
    """Values (C,) for the second dimension of an input."""
    return [None if x is None else x.view(-1, *[1] * (input.dim() - 2)) for x in values]


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
