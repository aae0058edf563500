"""The problem: a scalar loss of one flat parameter vector, with the network behind it where there is one."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.problems.casting import cast
from harness.problems.checks import check, check_elsewhere
from harness.problems.errors import ProblemError, blamed
from harness.problems.own import calls, ravel
from harness.problems.state import check_state
from harness.problems.subset import subset

__all__ = ["Criterion", "Problem", "ProblemError", "build", "check", "from_function", "from_network", "subset"]

Criterion = Callable[..., Tensor]  # (outputs, targets) -> ()

RETURNED = (
    "it must return (model, criterion, inputs, targets), or (model, criterion, inputs) where there are no targets, "
    "with None as the criterion where the model computes its loss itself; or (objective, parameters), or (objective, "
    "parameters, data); or a Problem from harness.problems.from_network or from_function"
)


@dataclass(frozen=True)
class Problem:
    """A loss and the point at which its Hessian is asked for; built by `from_network` or `from_function`."""

    loss: Callable[[Tensor], Tensor]  # (P,) -> (), without side effects
    theta: Tensor  # (P,), detached
    sizes: tuple[int, ...]  # of the parameter tensors that theta is made of, in its order
    to: Callable[[torch.device | str, torch.dtype], Problem]  # the same problem on another device, in another dtype
    model: torch.nn.Module | None = None
    outputs: Callable[[Tensor], Any] | None = None  # (P,) -> the model's outputs
    criterion: Criterion | None = None
    inputs: Any = None
    targets: Any = None
    whole: int | None = None  # parameters of the problem that this one is a `subset` of
    data: tuple[Any, ...] = ()  # what the objective of a function needs beside its parameters
    hessian: Callable[[], Tensor] | None = None  # () -> (P, P), the closed form at theta
    leaves: tuple[Tensor, ...] = ()  # the user's parameter tensors, which theta is a copy of; none of a `subset`
    plain: Callable[[], Tensor] | None = None  # () -> (), the loss as the user computes it, at what the leaves now hold


def from_network(
    model: torch.nn.Module,
    criterion: Criterion | None,
    inputs: Any,
    targets: Any = None,
    hessian: Callable[[Any, Any], Tensor] | None = None,
) -> Problem:
    """The problem of `criterion(model(inputs), targets)` in the model's trainable parameters.

    `theta` is in the order of `model.named_parameters()`. Inputs and targets may be tensors, or tuples, lists, dicts or
    objects of them. A tuple of inputs is given to the model as its arguments; a dict or named tuple as
    `model(**inputs)` where the model's `forward` names all of its keys, else as its one argument. Without a criterion
    the model computes its loss itself: its output, or an entry `loss` of it. A criterion of one argument is given the
    outputs alone where there are no targets. A penalty on the model's parameters within the criterion is part of the
    loss. `hessian(model, inputs)` is the closed form (P, P), where one is known.

    Raises ProblemError for a class of a loss instead of an instance, and for parameters that cannot be flattened.
    """
    try:
        criterion = calls.completed(criterion, targets)
    except ValueError as error:
        raise ProblemError(str(error)) from error
    theta, unravel = _raveled(model)
    whole = calls.loss_of(model, criterion, inputs, targets)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        return from_network(*cast((model, criterion, inputs, targets, hessian), device, dtype))

    leaves = tuple(ravel.leaves_of(model))
    return Problem(
        lambda theta: whole(unravel(theta)),
        theta,
        tuple(leaf.numel() for leaf in leaves),
        to,
        model,
        lambda theta: calls.call(model, unravel(theta), inputs),
        criterion,
        inputs,
        targets,
        hessian=None if hessian is None else lambda: hessian(model, inputs),
        leaves=leaves,
        plain=lambda: criterion(calls.call(model, {}, inputs), targets),
    )


def from_function(
    objective: Callable[..., Tensor],
    parameters: ravel.Parameters,
    data: tuple[Any, ...] = (),
    hessian: Callable[..., Tensor] | None = None,
) -> Problem:
    """The problem of `objective(parameters, *data)`, a scalar, in a tensor, or tensors in tuples, lists and dicts.

    What the objective needs beside its parameters, networks too, comes best as `data`; what it closes over is cast to
    another dtype or device as well. `hessian(parameters, *data)` is the closed form (P, P), where one is known.

    Raises ProblemError for parameters that cannot be flattened.
    """
    theta, unravel = _raveled(parameters)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        return from_function(*cast((objective, parameters, data, hessian), device, dtype))

    leaves = tuple(ravel.leaves_of(parameters))
    return Problem(
        lambda theta: objective(unravel(theta), *data),
        theta,
        tuple(leaf.numel() for leaf in leaves),
        to,
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


def build(target: str, options: Mapping[str, Any]) -> Problem:
    """Call the builder at a dotted path with its options.

    A tuple that begins with a model and a criterion is taken as `from_network`'s arguments, any other one of two or
    three as `from_function`'s.

    Raises ProblemError where the path leads nowhere, the options do not fit, the result is no problem, its loss
    keeps a state between calls (`check_state`), or reads its parameters where they cannot be replaced
    (`check_elsewhere`; where it can be called before it is cast). CodeError where the builder raises.
    """
    built = returned(target, options)
    if isinstance(built, tuple):
        built = _from_tuple(built)
    if not isinstance(built, Problem):
        raise ProblemError(f"{target} returned {type(built).__name__}; {RETURNED}")
    check_state(built)  # before the problem itself is called, of which `to` makes copies
    check_elsewhere(built)
    return built


def is_network(built: Any) -> bool:
    """Whether what a builder returned are the arguments of `from_network`."""
    return (
        isinstance(built, tuple)
        and len(built) in (3, 4)
        and isinstance(built[0], torch.nn.Module)
        and (built[1] is None or callable(built[1]))
    )


def _from_tuple(built: tuple[Any, ...]) -> Any:
    """The problem of a tuple that a builder returned; the tuple itself where it is none."""
    if is_network(built):
        return from_network(*built)
    if len(built) not in (2, 3) or not callable(built[0]):
        return built
    objective, parameters, *rest = built
    several = bool(rest) and isinstance(rest[0], tuple | list)
    return from_function(objective, parameters, tuple(rest[0] if several else rest))


def returned(target: str, options: Mapping[str, Any]) -> Any:
    """What the builder at a dotted path returns.

    Raises ProblemError where there is none or the options do not fit, CodeError where it raises itself.
    """
    try:
        builder = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ProblemError(
            f"problem._target_={target} cannot be imported: {error}; name an importable function by its dotted path, "
            "with its package installed or in the current directory"
        ) from error
    try:
        parameters = inspect.signature(builder).parameters
        inspect.signature(builder).bind(**options)
    except (TypeError, ValueError) as error:
        known = ", ".join(parameters) if callable(builder) else "none: it is no function"
        raise ProblemError(f"{target} was called with {dict(options)}: {error}; its options are {known}") from error
    with blamed(target):
        return builder(**options)


def double(value: Any) -> Any:
    """A module, or a tensor of floating point numbers, in float64; anything else as it is."""
    if isinstance(value, torch.nn.Module):
        return value.double()
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
