"""Calls of affine maps: what a parameter enters through, as a product of features with it or as any linear function.

`maps` has the functions of torch that are affine maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from methods.factoring.views import View, Views

Change = Callable[[Tensor, Tensor, Tensor], Tensor]  # e (N, S, p), z, input -> the change of z that e makes


@dataclass(frozen=True)
class Call:
    """One call of an affine map, and how its tensors look with samples N, positions S and features."""

    weight: Tensor  # what the map is given; `shifted` replaces a view of a parameter by the parameter
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


def fits(input: Tensor, samples: int) -> bool:
    """Whether the input holds as many positions for each sample."""
    return len(input) > 0 and len(input) % max(samples, 1) == 0


def fit_together(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the bias has one entry for each output of the weight."""
    return bias is None or bias.shape == weight.shape[:1]
