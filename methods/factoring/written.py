"""Functions of torch that are replaced by simpler ones of the same value (torch 2.13), with torch's arguments.

`REPAIRED` are those whose derivatives torch gets wrong or lacks. `WRITTEN` are those within which parameters enter
affine maps (`maps`); they may return None for arguments that are left to torch's own function.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import linear

from methods.factoring import normalisations
from methods.factoring.attention import multi_head_attention


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


def weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`."""
    return direction * (length / torch.norm_except_dim(direction, 2, dim))


def _transposed_convolution(
    function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **named: Any
) -> Tensor | None:
    """The bias apart."""
    if bias is None:
        return None
    return function(input, weight, None, *args, **named) + bias.view(-1, *[1] * (weight.dim() - 2))


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    channels = weight.view(-1, *[1] * (input.dim() - 2)) if input.dim() > 1 else weight
    return input.relu() - channels * (-input).relu()


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of the products of entries."""
    return linear((input1[..., :, None] * input2[..., None, :]).flatten(-2), weight.flatten(1), bias)


def _addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *options: Any, beta: float = 1, alpha: float = 1
) -> Tensor | None:
    return torch.matmul(mat1, mat2) + input if not options and beta == alpha == 1 else None


def _einsum(equation: Any, *operands: Any) -> Tensor | None:
    """A product with a matrix over the last dimension, such as "...i,ij->...j"."""
    found = re.fullmatch(
        r"(?:\.\.\.)?([a-zA-Z]*)([a-zA-Z]),([a-zA-Z])([a-zA-Z])->(?:\.\.\.)?\1([a-zA-Z])", _joined(equation)
    )
    if not found or len(operands) != 2:
        return None
    others, contracted, first, second, left = found.groups()
    if len({*others, contracted, left}) < len(others) + 2 or {first, second} != {contracted, left}:
        return None
    x, matrix = operands
    return torch.matmul(x, matrix) if first == contracted else linear(x, matrix)


def _joined(equation: Any) -> str:
    return equation.replace(" ", "") if isinstance(equation, str) else ""


def _gru_cell(x: Tensor, state: Tensor, *parameters: Tensor) -> Tensor:
    of_input, of_state = _of_gates(x, state, 3, *parameters)
    reset, update = ((a + b).sigmoid() for a, b in zip(of_input[:2], of_state[:2], strict=True))
    new = (of_input[2] + reset * of_state[2]).tanh()
    return new + update * (state - new)


def _lstm_cell(x: Tensor, states: tuple[Tensor, Tensor], *parameters: Tensor) -> tuple[Tensor, Tensor]:
    state, cell = states
    of_input, of_state = _of_gates(x, state, 4, *parameters)
    keep, forget, new, output = (a + b for a, b in zip(of_input, of_state, strict=True))
    cell = forget.sigmoid() * cell + keep.sigmoid() * new.tanh()
    return output.sigmoid() * cell.tanh(), cell


def _rnn_cell(activation: Callable[[Tensor], Tensor], x: Tensor, state: Tensor, *parameters: Tensor) -> Tensor:
    (of_input,), (of_state,) = _of_gates(x, state, 1, *parameters)
    return activation(of_input + of_state)


def _of_gates(
    x: Tensor,
    state: Tensor,
    gates: int,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None = None,
    bias_of_state: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What the input and the state of a recurrent cell give for each gate."""
    return linear(x, of_input, bias).chunk(gates, -1), linear(state, of_state, bias_of_state).chunk(gates, -1)


REPAIRED: dict[Any, Callable[..., Tensor]] = {
    functional.mse_loss: _squared_error,
    functional.huber_loss: _huber,
    vars(torch)["_weight_norm"]: weight_norm,
}
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
WRITTEN: dict[Any, Callable[..., Any]] = {
    functional.layer_norm: normalisations.layer_norm,
    functional.rms_norm: normalisations.rms_norm,
    functional.group_norm: normalisations.group_norm,
    functional.batch_norm: normalisations.batch_norm,
    functional.instance_norm: normalisations.instance_norm,
    functional.multi_head_attention_forward: multi_head_attention,
    functional.bilinear: _bilinear,
    functional.prelu: _prelu,
    torch.addmm: _addmm,
    torch.einsum: _einsum,
    torch.gru_cell: _gru_cell,
    torch.lstm_cell: _lstm_cell,
    torch.rnn_tanh_cell: partial(_rnn_cell, torch.tanh),
    torch.rnn_relu_cell: partial(_rnn_cell, torch.relu),
    **{function: partial(_transposed_convolution, function) for function in _TRANSPOSED},
}
