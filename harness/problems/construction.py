"""Problems from a network or from a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.problems.casting import cast
from harness.problems.errors import ProblemError
from harness.problems.method_helpers import calls, ravel
from harness.problems.problem import Criterion, Problem


def from_network(
    model: torch.nn.Module,
    criterion: Criterion | None,
    inputs: Any,
    targets: Any = None,
    hessian: Callable[[Any, Any], Tensor] | None = None,
    input_hessian: Callable[[Any, Any], Tensor] | None = None,
) -> Problem:
    """The problem of `criterion(model(inputs), targets)` in the model's trainable parameters.

    - `theta` is in the order of `model.named_parameters()`.
    - Inputs and targets may be tensors, or tuples, lists, dicts or objects of them. A tuple of inputs is given to the
      model as its arguments. A dict or named tuple is given as `model(**inputs)` where the model's `forward` names all
      of its keys, else as its one argument.
    - Without a criterion the model computes its loss itself: its output, or an entry `loss` of it. A criterion of one
      argument is given the outputs alone where there are no targets.
    - A penalty on the model's parameters within the criterion is part of the loss.
    - `hessian(model, inputs)` is the closed form (P, P), where one is known; `input_hessian(model, inputs)` is that
      (N, D, D) of each sample's loss in its flattened input.

    Raises ProblemError for a class of a loss instead of an instance, and for parameters that cannot be flattened.
    """
    try:
        criterion = calls.completed(criterion, targets)
    except ValueError as error:
        raise ProblemError(str(error)) from error
    theta, unravel = _raveled(model)
    loss_of_parameters = calls.loss_of(model, criterion, inputs, targets)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        return from_network(*cast((model, criterion, inputs, targets, hessian, input_hessian), device, dtype))

    leaves = tuple(ravel.leaves_of(model))
    return Problem(
        loss=lambda theta: loss_of_parameters(unravel(theta)),
        theta=theta,
        sizes=tuple(leaf.numel() for leaf in leaves),
        to=to,
        model=model,
        outputs=lambda theta: calls.call(model, unravel(theta), inputs),
        criterion=criterion,
        inputs=inputs,
        targets=targets,
        hessian=None if hessian is None else lambda: hessian(model, inputs),
        input_hessian=None if input_hessian is None else lambda: input_hessian(model, inputs),
        leaves=leaves,
        plain=lambda: criterion(calls.call(model, {}, inputs), targets),
    )


def from_function(
    objective: Callable[..., Tensor],
    parameters: ravel.Parameters,
    data: tuple[Any, ...] = (),
    hessian: Callable[..., Tensor] | None = None,
) -> Problem:
    """The problem of `objective(parameters, *data)`, a scalar.

    - The parameters are a tensor, or tensors in tuples, lists and dicts.
    - What the objective needs beside its parameters, networks too, comes best as `data`. Tensors that it closes over
      are cast to another dtype or device as well.
    - `hessian(parameters, *data)` is the closed form (P, P), where one is known.

    Raises ProblemError for parameters that cannot be flattened.
    """
    theta, unravel = _raveled(parameters)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        return from_function(*cast((objective, parameters, data, hessian), device, dtype))

    leaves = tuple(ravel.leaves_of(parameters))
    return Problem(
        loss=lambda theta: objective(unravel(theta), *data),
        theta=theta,
        sizes=tuple(leaf.numel() for leaf in leaves),
        to=to,
        data=data,
        hessian=None if hessian is None else lambda: hessian(unravel(theta), *data),
        leaves=leaves,
        plain=lambda: objective(unravel(torch.cat([leaf.reshape(-1) for leaf in leaves])), *data),
    )


def _raveled(parameters: ravel.Parameters) -> tuple[Tensor, Callable[[Tensor], Any]]:
    try:
        return ravel.ravel(parameters)
    except ValueError as error:
        raise ProblemError(str(error)) from error
