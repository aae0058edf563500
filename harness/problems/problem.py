"""The problem: a scalar loss of one flat parameter vector, with the network behind it where there is one."""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.ravel import ravel

Criterion = Callable[[Tensor, Tensor], Tensor]


class ProblemError(ValueError):
    """A problem cannot be built from its options, or is none whose Hessian can be asked for."""


@dataclass(frozen=True)
class Problem:
    """A loss and the point at which its Hessian is asked for; built by `from_network` or `from_function`."""

    loss: Callable[[Tensor], Tensor]  # (P,) -> (), without side effects
    theta: Tensor  # (P,), detached
    sizes: tuple[int, ...]  # of the parameter tensors that theta is made of, in its order
    to: Callable[[torch.device | str, torch.dtype], Problem]  # the same problem on another device, in another dtype
    model: torch.nn.Module | None = None
    outputs: Callable[[Tensor], Tensor] | None = None  # (P,) -> the model's outputs
    criterion: Criterion | None = None
    inputs: Any = None
    targets: Any = None
    whole: int | None = None  # parameters of the problem that this one is a `subset` of
    data: tuple[Any, ...] = ()  # what the objective of a function needs beside its parameters
    hessian: Callable[[], Tensor] | None = None  # () -> (P, P), the closed form at theta


def from_network(
    model: torch.nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    hessian: Callable[[Any, Any], Tensor] | None = None,
) -> Problem:
    """The problem of `criterion(model(inputs), targets)` in the model's trainable parameters.

    `theta` is in the order of `model.named_parameters()`. Inputs and targets may be tensors, tuples, lists or dicts
    of them; a tuple of inputs is given to the model as its arguments. `hessian(model, inputs)` is the closed form
    (P, P), where one is known.
    """
    theta, unravel = ravel(model)

    def outputs(theta: Tensor) -> Tensor:
        return _call(model, unravel(theta), inputs)

    def loss(theta: Tensor) -> Tensor:
        return criterion(outputs(theta), targets)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        moved = copy.deepcopy(criterion) if isinstance(criterion, torch.nn.Module) else criterion
        if isinstance(moved, torch.nn.Module):
            moved = moved.to(device, dtype)
        cast_inputs, cast_targets = _cast((inputs, targets), device, dtype)
        return from_network(copy.deepcopy(model).to(device, dtype), moved, cast_inputs, cast_targets, hessian)

    closed_form = None if hessian is None else lambda: hessian(model, inputs)
    sizes = _sizes(unravel(theta))
    return Problem(loss, theta, sizes, to, model, outputs, criterion, inputs, targets, hessian=closed_form)


def from_function(
    objective: Callable[..., Tensor],
    parameters: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    data: tuple[Any, ...] = (),
    hessian: Callable[..., Tensor] | None = None,
) -> Problem:
    """The problem of `objective(parameters, *data)`, a scalar, in a tensor, or a tuple or dict of tensors.

    What the objective needs beside its parameters comes as `data`, not through a closure, so that it can be cast
    to another dtype or device with them. `hessian(parameters, *data)` is the closed form (P, P), where one is known.
    """
    theta, unravel = ravel(parameters)

    def to(device: torch.device | str, dtype: torch.dtype) -> Problem:
        cast_parameters, cast_data = _cast((parameters, data), device, dtype)
        return from_function(objective, cast_parameters, cast_data, hessian)

    closed_form = None if hessian is None else lambda: hessian(unravel(theta), *data)
    sizes = _sizes(unravel(theta))
    return Problem(lambda theta: objective(unravel(theta), *data), theta, sizes, to, data=data, hessian=closed_form)


def subset(problem: Problem, count: int, seed: int) -> Problem:
    """The problem in `count` of its parameters, drawn at random; the others stay where they are.

    Its Hessian is a principal submatrix of the whole one, and each of its columns costs what one of the whole does.
    `sizes` says how many are of each parameter tensor. Raises ProblemError where there are fewer parameters.
    """
    whole = problem.theta
    if not 1 <= count <= len(whole):
        raise ProblemError(f"subset={count} must be between 1 and the number of parameters, {len(whole)}")
    index = (
        torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:count].sort().values.to(whole.device)
    )
    ends = torch.tensor(problem.sizes, device=whole.device).cumsum(0)
    sizes = torch.bincount(torch.searchsorted(ends, index, right=True), minlength=len(ends)).tolist()
    outputs, closed_form, model = problem.outputs, problem.hessian, problem.model

    def embed(theta: Tensor) -> Tensor:
        return whole.index_put((index,), theta)

    return replace(
        problem,
        loss=lambda theta: problem.loss(embed(theta)),
        theta=whole[index],
        whole=len(whole),
        sizes=tuple(size for size in sizes if size),
        to=lambda device, dtype: subset(problem.to(device, dtype), count, seed),
        model=None if model is None else _Subset(model, whole[index], embed),
        outputs=None if outputs is None else lambda theta: outputs(embed(theta)),
        hessian=None if closed_form is None else lambda: closed_form()[index][:, index],
    )


class _Subset(torch.nn.Module):
    """A network with some of its parameters as one vector, the others fixed."""

    def __init__(self, model: torch.nn.Module, theta: Tensor, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(theta.clone())
        self._model, self._embed, (_, self._unravel) = [model], embed, ravel(model)  # in a list: no part of this module

    def forward(self, *inputs: Any) -> Any:
        """What the network makes of its inputs."""
        return _call(self._model[0], self._unravel(self._embed(self.theta)), inputs)


def _call(model: torch.nn.Module, parameters: dict[str, Tensor], inputs: Any) -> Any:
    """What the network makes of inputs with these parameters; what it writes in train mode it writes into copies."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()} if model.training else {}
    return torch.func.functional_call(model, parameters | buffers, inputs)


def _sizes(parameters: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> tuple[int, ...]:
    if isinstance(parameters, Tensor):
        return (parameters.numel(),)
    leaves = parameters.values() if isinstance(parameters, Mapping) else parameters
    return tuple(leaf.numel() for leaf in leaves)


def _cast(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, Mapping):
        return {key: _cast(entry, device, dtype) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(_cast(entry, device, dtype) for entry in value))
    if isinstance(value, tuple | list):
        return type(value)(_cast(entry, device, dtype) for entry in value)
    return value


def build(target: str, options: Mapping[str, Any]) -> Problem:
    """Call the builder at a dotted path with its options.

    A tuple of four is taken as `from_network`'s arguments, one of two or three as `from_function`'s.

    Raises ProblemError where the path leads nowhere, the options do not fit or the result is no problem.
    """
    built = returned(target, options)
    if isinstance(built, tuple) and len(built) == 4:
        built = from_network(*built)
    elif isinstance(built, tuple) and len(built) in (2, 3):
        built = from_function(*built)
    if not isinstance(built, Problem):
        raise ProblemError(
            f"{target} returned {type(built).__name__}; it must return (model, criterion, inputs, targets), or "
            "(objective, parameters), or a Problem from harness.problems.from_network or from_function"
        )
    return built


def returned(target: str, options: Mapping[str, Any]) -> Any:
    """What the builder at a dotted path returns; raises ProblemError where there is none or the options do not fit."""
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
    return builder(**options)


def double(value: Any) -> Any:
    """A module, or a tensor of floating point numbers, in float64; anything else as it is."""
    if isinstance(value, torch.nn.Module):
        return value.double()
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def check(problem: Problem) -> None:
    """Raise ProblemError unless the loss is a finite, deterministic scalar that depends on its parameters."""
    theta = problem.theta.detach().requires_grad_()
    value = problem.loss(theta)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ProblemError(
            f"the loss must be a scalar (a tensor of shape ()), found {shape}; reduce it, say by .mean()"
        )
    if not value.requires_grad:
        raise ProblemError(
            "the loss does not depend on its parameters: no gradient leads back from it to them; compute it from the "
            "parameters it is given (no .detach(), .item(), torch.no_grad() or closed-over copies)"
        )
    if not torch.isfinite(value):
        raise ProblemError(f"the loss is {value.item()} at the given parameters; a Hessian there means nothing")
    buffers = {} if problem.model is None else dict(problem.model.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    (gradient,) = torch.autograd.grad(value, theta, allow_unused=True)
    if gradient is None:
        raise ProblemError("the loss does not depend on its parameters: its gradient in them is None")
    again = problem.loss(theta)
    if not torch.allclose(value, again, rtol=1e-6):
        raise ProblemError(
            f"the loss is not deterministic: {value.item()} and {again.item()} at the same parameters; call "
            "model.eval(), remove dropout or fix its seed"
        )
    changed = [name for name, buffer in buffers.items() if not torch.equal(buffer, before[name])]
    if changed:
        raise ProblemError(
            f"the loss changes the model's {', '.join(changed)} whenever it is called, in eval mode too; a loss "
            "must have no side effects"
        )
