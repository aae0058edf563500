"""Calls of affine maps: what a parameter enters through, as a product of features with it or as any linear function.

Each affine map calls one function of torch. `AFFINE` gives for such a function what makes a `Call` of its arguments.
`written` and its neighbours write other functions out by these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.factoring.views import View, Views

Change = Callable[[Tensor, Tensor, Tensor], Tensor]  # e (N, S, p), z, input -> the change of z that e makes


@dataclass(frozen=True)
class Call:
    """One call of an affine map, and how its tensors look with samples N, positions S and features."""

    weight: Tensor  # as the map is given it; `of_parameters` puts the parameter that it is a view of
    bias: Tensor | None
    input: Tensor
    features: Callable[[Tensor], Tensor]  # input -> a (N, S, q)
    outputs: Callable[[Tensor], Tensor]  # z -> (N, S, p)
    change: Change
    transposed: bool = False  # whether the weight is (q, p)
    entries: bool = False  # whether e changes the weight's entries, for each sample: S = 1, p entries, and a = 1
    groups: int = 1  # of outputs, each of which sees as many features of its own
    starts: tuple[int, int] = (0, 0)  # the indices of the first entries of the weight and bias in their parameters
    share: float = 1.0  # of the entries of its parameter that the weight is


@dataclass(frozen=True)
class Seen:
    """A function of torch that a network calls."""

    function: Any
    samples: int  # N
    views: Views  # of the parameters that are held fixed


def _linear(seen: Seen, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if input.dim() < 2 or weight.dim() != 2 or not _fits(input, seen.samples) or not _fit(weight, bias):
        return None
    by_sample = _last_dimension(seen.samples)
    return Call(weight, bias, input, by_sample, by_sample, _reshaped)


def _product(seen: Seen, input: Tensor, other: Tensor) -> Call | None:
    """A linear map whose weight is transposed."""
    if input.dim() < 2 or other.dim() != 2 or seen.views.of(other) is None or not _fits(input, seen.samples):
        return None
    by_sample = _last_dimension(seen.samples)
    return Call(other, None, input, by_sample, by_sample, _reshaped, transposed=True)


def _embedding(
    seen: Seen,
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
    if changes_gradient or seen.views.are_positions(input) or not input.dim() or not _fits(input, seen.samples):
        return None

    def features(x: Tensor) -> Tensor:
        return functional.one_hot(x, len(weight)).to(weight.dtype).reshape(seen.samples, -1, len(weight))

    return Call(weight, None, input, features, _last_dimension(seen.samples), _reshaped, transposed=True)


def _convolution(
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
    if input.dim() != weight.dim() or not _fits(input, seen.samples) or not _fit(weight, bias):
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


def _transposed_convolution(
    seen: Seen, input: Tensor, weight: Tensor, bias: None = None, *options: Any, **named: Any
) -> Call | None:
    """A convolution's transpose, without a bias: `written` adds it."""
    view = seen.views.of(weight)
    if view is None or bias is not None or input.dim() != weight.dim() or not _fits(input, seen.samples):
        return None

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        each = torch.func.vmap(lambda x, w: seen.function(x, w, None, *options, **named))
        return each(x.unflatten(0, (seen.samples, -1)), view.moved(e)).reshape(z.shape)

    return of_entries(view.param, input, seen.samples, change)


def _entrywise(seen: Seen, input: Any, other: Any, **options: Any) -> Call | None:
    """A sum, difference or product, one operand of which is a parameter and the other has the samples first."""
    first, second = seen.views.of(input), seen.views.of(other)
    view, x = (second, input) if first is None else (first, other)
    if view is None or (first and second) or not isinstance(x, Tensor):
        return None
    shape = view.tensor.shape
    if not x.dim() or not _fits(x, seen.samples) or not (len(shape) < x.dim() or shape[0] == 1):
        return None
    aligned = [1] * (x.dim() - len(shape)) + list(shape)
    if len(aligned) > x.dim():
        return None

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        w = view.moved(e).reshape(seen.samples, *aligned)
        x = x.unflatten(0, (seen.samples, -1))
        x = x if seen.function in _PRODUCTS else torch.zeros_like(x)
        return seen.function(*((x, w) if first is None else (w, x)), **options).reshape(z.shape)

    return of_entries(view.param, x, seen.samples, change)


def shifted(call: Call, views: Views, samples: int, by_entries: bool) -> Iterator[Call]:
    """The call with a shift of its outputs, or one for each parameter with a shift of its entries.

    The parameters' entries are shifted with `by_entries`, and where an output's weights are no block of a parameter.
    """
    weight, bias = views.of(call.weight), views.of(call.bias)
    if call.entries:
        yield call
    elif (placed := None if by_entries or call.groups > 1 else _of_parameters(call, weight, bias)) is not None:
        yield placed
    else:
        if weight:
            yield _by_weight(call, weight, samples)
        if bias:
            yield _by_bias(call, bias, samples)


def _of_parameters(call: Call, weight: View | None, bias: View | None) -> Call | None:
    """The call with parameters instead of views of them; None where a view is no block of its parameter."""
    of_weight, of_bias = (0, False) if weight is None else weight.block(), (0, False) if bias is None else bias.block()
    if of_weight is None or of_bias is None:
        return None
    return replace(
        call,
        weight=weight.param if weight else call.weight,
        bias=bias.param if bias else call.bias,
        transposed=call.transposed != of_weight[1],
        starts=(of_weight[0], of_bias[0]),
        share=call.weight.numel() / weight.param.numel() if weight else 1.0,
    )


def _by_weight(call: Call, view: View, samples: int) -> Call:
    """The call with a shift of each entry of its weight, for each sample, instead of a shift of outputs."""

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        weights = view.moved(e)  # (N, ...)
        a = call.features(x)
        a = a.unflatten(2, (call.groups, -1)).transpose(1, 2)  # (N, groups, S, q)
        w = weights if call.transposed else weights.flatten(2).mT
        w = w.unflatten(2, (call.groups, -1)).transpose(1, 2)  # (N, groups, q, p)
        return call.change((a @ w).transpose(1, 2).flatten(2), z, x)

    return of_entries(view.param, call.input, samples, change)


def _by_bias(call: Call, view: View, samples: int) -> Call:
    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return call.change(view.moved(e)[:, None].expand(call.outputs(z).shape), z, x)

    return of_entries(view.param, call.input, samples, change)


def of_entries(param: Tensor, input: Tensor, samples: int, change: Change) -> Call:
    """A call whose shifts (N, 1, entries of the parameter) are changes of the parameter for each sample.

    `change` takes them, z and the input to the change of z. It is linear in the shifts.
    """

    def ones(x: Tensor) -> Tensor:
        return param.new_ones(samples, 1, 1)

    def outputs(z: Tensor) -> Tensor:
        return z.new_zeros(samples, 1, param.numel())

    return Call(param, None, input, ones, outputs, change, entries=True)


def _last_dimension(samples: int) -> Callable[[Tensor], Tensor]:
    return lambda y: y.reshape(samples, -1, y.shape[-1])


def _reshaped(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return e.reshape(z.shape)


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


def _fits(input: Tensor, samples: int) -> bool:
    """Whether the input holds as many positions for each sample."""
    return len(input) > 0 and len(input) % max(samples, 1) == 0


def _fit(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the bias has one entry for each output of the weight."""
    return bias is None or bias.shape == weight.shape[:1]


_PRODUCTS = (torch.mul, Tensor.mul)

# A function seen, and its arguments -> the call, or None where it is not treated as an affine map.
AFFINE: dict[Callable[..., Tensor], Callable[..., Call | None]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.conv3d: _convolution,
    functional.conv_transpose1d: _transposed_convolution,
    functional.conv_transpose2d: _transposed_convolution,
    functional.conv_transpose3d: _transposed_convolution,
    functional.embedding: _embedding,
    **dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm), _product),
    **dict.fromkeys((torch.mul, Tensor.mul, torch.add, Tensor.add, torch.sub, Tensor.sub), _entrywise),
}
