"""Convolutions as affine maps, and their transposes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.factoring.affine import Call, Seen, fit_together, fits, of_entries


def convolution(
    seen: Seen,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call | None:
    """A linear map of patches, in any number of dimensions k."""
    if input.dim() != weight.dim() or not fits(input, seen.samples) or not fit_together(weight, bias):
        return None
    kernel = tuple(weight.shape[2:])
    k = len(kernel)
    steps, apart = _each(stride, k), _each(dilation, k)
    margins = _margins(padding, kernel, apart)
    windows = list(_windows(input.shape[2:], margins, kernel, steps, apart))

    def features(x: Tensor) -> Tensor:
        """Shifted views, one for each entry of the kernel: torch's own unfold is slow where transforms batch it."""
        image = functional.pad(x, margins)
        patches = torch.stack([image[(..., *window)] for window in windows], 2)  # (N, channels, kernel, positions)
        return patches.flatten(3).flatten(1, 2).mT.reshape(seen.samples, -1, patches.shape[1] * patches.shape[2])

    def by_sample(z: Tensor) -> Tensor:
        return z.flatten(2).transpose(1, 2).reshape(seen.samples, -1, z.shape[1])

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return e.reshape(len(z), -1, z.shape[1]).transpose(1, 2).reshape(z.shape)

    return Call(weight, bias, input, features, by_sample, change, groups=groups)


def transposed_convolution(
    seen: Seen, input: Tensor, weight: Tensor, bias: None = None, *options: Any, **named: Any
) -> Call | None:
    """A convolution's transpose, without a bias: `written` adds it."""
    view = seen.views.of(weight)
    if view is None or bias is not None or input.dim() != weight.dim() or not fits(input, seen.samples):
        return None

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        each = torch.func.vmap(lambda x, w: seen.function(x, w, None, *options, **named))
        return each(x.unflatten(0, (seen.samples, -1)), view.moved(e)).reshape(z.shape)

    return of_entries(view.param, input, seen.samples, change)


def _each(option: Any, count: int) -> tuple[int, ...]:
    """An option for each of some dimensions, where one number may stand for all."""
    values = (option,) if isinstance(option, int) else tuple(option)
    return values * count if len(values) == 1 else values


def _margins(padding: Any, kernel: tuple[int, ...], apart: tuple[int, ...]) -> list[int]:
    """What a convolution pads: before and after each dimension, from the last one to the first."""
    if padding == "same":
        totals = [distance * (size - 1) for size, distance in zip(kernel, apart, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(margin, margin) for margin in _each(0 if padding == "valid" else padding, len(kernel))]
    return [margin for pair in reversed(pairs) for margin in pair]


def _windows(
    sizes: Sequence[int], margins: Sequence[int], kernel: Sequence[int], steps: Sequence[int], apart: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each entry of a convolution's kernel, where it lies in the padded input at all positions."""
    each = []
    for dim, (size, entries, step, distance) in enumerate(zip(sizes, kernel, steps, apart, strict=True)):
        before, after = margins[2 * (len(kernel) - 1 - dim) :][:2]
        span = size + before + after - distance * (entries - 1)  # of the first entry
        each.append([slice(entry * distance, entry * distance + span, step) for entry in range(entries)])
    return itertools.product(*each)
