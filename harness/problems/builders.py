"""Builders: functions at a dotted path whose result is a problem, or the arguments of one."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.problems.checks import check_elsewhere
from harness.problems.construction import from_function, from_network
from harness.problems.errors import ProblemError, blamed
from harness.problems.loss_state import check_state
from harness.problems.problem import Problem

RETURNED = (
    "it must return (model, criterion, inputs, targets), or (model, criterion, inputs) where there are no targets, "
    "with None as the criterion where the model computes its loss itself; or (objective, parameters), or (objective, "
    "parameters, data); or a Problem from harness.problems.from_network or from_function"
)


def build(target: str, options: Mapping[str, Any]) -> Problem:
    """Call the builder at a dotted path with its options.

    A tuple that begins with a model and a criterion holds `from_network`'s arguments. Any other tuple of two or three
    holds `from_function`'s.

    Raises ProblemError where

    - the path leads nowhere, the options do not fit, or the result is no problem;
    - the loss keeps a state between calls (`check_state`);
    - the loss reads its parameters where they cannot be replaced (`check_elsewhere`; seen where the loss can be called
      before it is cast).

    Raises CodeError where the builder itself raises.
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
