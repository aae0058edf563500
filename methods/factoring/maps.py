"""The functions of torch that are affine maps of parameters, each with what makes a `Call` of its arguments.

`written` writes other functions out by these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.factoring.affine import Call, Seen, fit_together, fits, of_entries
from methods.factoring.convolutions import convolution, transposed_convolution


def _linear(seen: Seen, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if input.dim() < 2 or weight.dim() != 2 or not fits(input, seen.samples) or not fit_together(weight, bias):
        return None
    by_sample = _last_dimension(seen.samples)
    return Call(weight, bias, input, by_sample, by_sample, _reshaped)


def _product(seen: Seen, input: Tensor, other: Tensor) -> Call | None:
    """A linear map whose weight is transposed."""
    if input.dim() < 2 or other.dim() != 2 or seen.views.of(other) is None or not fits(input, seen.samples):
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
    """A linear map of one-hot vectors, which are zero for the padding. Its weight is transposed."""
    changes_gradient = max_norm is not None or scale_grad_by_freq or sparse
    if changes_gradient or seen.views.are_positions(input) or not input.dim() or not fits(input, seen.samples):
        return None

    def features(x: Tensor) -> Tensor:
        a = functional.one_hot(x, len(weight)).to(weight.dtype)
        if padding_idx is not None:
            a[..., padding_idx] = 0
        return a.reshape(seen.samples, -1, len(weight))

    return Call(weight, None, input, features, _last_dimension(seen.samples), _reshaped, transposed=True)


def _entrywise(seen: Seen, input: Any, other: Any, **options: Any) -> Call | None:
    """A sum, difference or product, one operand of which is a parameter and the other has the samples first."""
    first, second = seen.views.of(input), seen.views.of(other)
    view, x = (second, input) if first is None else (first, other)
    if view is None or (first and second) or not isinstance(x, Tensor):
        return None
    shape = view.tensor.shape
    if not x.dim() or not fits(x, seen.samples) or not (len(shape) < x.dim() or shape[0] == 1):
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


def _repeated(seen: Seen, input: Tensor, *sizes: Any) -> Call | None:
    """A parameter that is repeated for each sample, as a class token is, by `expand` or `repeat`."""
    view = seen.views.of(input)
    sizes = sizes if len(sizes) != 1 or isinstance(sizes[0], int) else tuple(sizes[0])
    if view is None or sizes[0] != seen.samples or (seen.function is Tensor.repeat and any(n != 1 for n in sizes[1:])):
        return None
    rest = [1] * (len(sizes) - input.dim()) + list(input.shape)
    if rest.pop(0) != 1:
        return None

    def change(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return view.moved(e).reshape(seen.samples, *rest).expand(z.shape)

    return of_entries(view.param, input.detach(), seen.samples, change)


def _last_dimension(samples: int) -> Callable[[Tensor], Tensor]:
    return lambda y: y.reshape(samples, -1, y.shape[-1])


def _reshaped(e: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return e.reshape(z.shape)


_PRODUCTS = (torch.mul, Tensor.mul)

# A function seen, and its arguments -> the call, or None where it is not treated as an affine map.
AFFINE: dict[Callable[..., Tensor], Callable[..., Call | None]] = {
    functional.linear: _linear,
    functional.conv1d: convolution,
    functional.conv2d: convolution,
    functional.conv3d: convolution,
    functional.conv_transpose1d: transposed_convolution,
    functional.conv_transpose2d: transposed_convolution,
    functional.conv_transpose3d: transposed_convolution,
    functional.embedding: _embedding,
    **dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm), _product),
    **dict.fromkeys((torch.mul, Tensor.mul, torch.add, Tensor.add, torch.sub, Tensor.sub), _entrywise),
    **dict.fromkeys((Tensor.expand, Tensor.repeat), _repeated),
}
