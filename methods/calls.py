"""How the methods call a network with given parameters, and evaluate its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def call(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any) -> Any:
    """The outputs of `model` for `inputs`, with the given parameters by name; other parameters keep their own values.

    `arguments` says how the inputs are passed. In train mode the network writes into copies of its buffers.
    """
    positional, named = arguments(model, inputs)
    state = {**_copies(model), **parameters}
    if not state:
        return model(*positional, **named)
    return torch.func.functional_call(model, state, positional, named)


def arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of `model` for `inputs`.

    - A tuple holds the positional arguments.
    - A dict is passed by name (`model(**inputs)`, as Hugging Face's models take a batch) where the signature of
      `forward` names all of its keys and requires nothing else, or is only `*args, **kwargs`.
    - A named tuple is passed by name where the signature names all of its fields.
    - Anything else is the only argument: other dicts, and other classes that are tuples, such as PackedSequence.
    """
    if type(inputs) is tuple:
        return inputs, {}
    if isinstance(inputs, tuple) and hasattr(inputs, "_asdict"):
        fields: dict[str, Any] = inputs._asdict()  # pyright: ignore[reportAttributeAccessIssue]
        named = fields.keys() <= inspect.signature(model.forward).parameters.keys()
        if named and _takes_by_name(model.forward, fields):
            return (), fields
        return (inputs,), {}
    if isinstance(inputs, Mapping) and _takes_by_name(model.forward, inputs):
        return (), dict(inputs)
    return (inputs,), {}


def _takes_by_name(forward: Callable[..., Any], inputs: Mapping[Any, Any]) -> bool:
    """Whether a function can be called with these keyword arguments, and names them or takes anything."""
    if not inputs or not all(isinstance(key, str) for key in inputs):
        return False
    parameters = inspect.signature(forward).parameters
    try:
        inspect.signature(forward).bind(**inputs)
    except TypeError:
        return False
    variadic = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    return variadic or inputs.keys() <= parameters.keys()


def loss_of(
    model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """The loss `criterion(model(inputs), targets)` (), as a function of the model's parameters by name.

    The model also has these parameters while the criterion is evaluated. A penalty on `model.parameters()` in the
    criterion is thus differentiated.

        theta, unravel = ravel(model)
        loss = loss_of(model, criterion, inputs, targets)
        H = hessian(lambda theta: loss(unravel(theta)), theta)
    """
    positional, named = arguments(model, inputs)
    return evaluator(model, lambda: criterion(model(*positional, **named), targets))


def evaluator(model: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(*given)` as a function of (parameters, *given): the model has these parameters by name meanwhile.

    Buffers are as in `call`. An evaluator that is made within a function that torch.compile traces keeps that function
    from being compiled.
    """
    return _Holder(model, function).evaluated


class _Holder(nn.Module):
    """A module that calls a function. The model that the function may read is a part of it."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *given: Any) -> Any:
        return self.function(*given)

    def evaluated(self, parameters: Mapping[str, Tensor], *given: Any) -> Any:
        """The result of the function while the model has these parameters."""
        state = {f"model.{name}": value for name, value in {**_copies(self.model), **parameters}.items()}
        return torch.func.functional_call(self, state, given)


def _copies(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers by name, in train mode, which may write into them; nothing otherwise."""
    if not any(part.training for part in module.modules()):
        return {}
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def own_loss(outputs: Any, targets: Any = None) -> Tensor:
    """The loss () in the outputs of a network that computes its loss itself, for example from labels in its inputs.

    The loss is the output if that is a tensor, or its entry or attribute `loss`, or the first entry of a tuple or list.
    Raises ValueError where none of these is a tensor of shape ().
    """
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("loss")
    elif isinstance(outputs, Sequence):
        found = outputs[0]
    elif not isinstance(outputs, Tensor):
        found = getattr(outputs, "loss", None)
    if isinstance(found, Tensor) and not found.dim():
        return found
    shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(
        f"without a criterion the model must compute its loss itself, a tensor of shape () or an output with an entry "
        f"`loss`; its output is {type(outputs).__name__}, the loss in it {shown}: give a criterion, or labels among "
        "the inputs"
    )


def completed(criterion: Callable[..., Tensor] | None, targets: Any) -> Callable[..., Tensor]:
    """A criterion of (outputs, targets), from one that may be None or take the outputs alone.

    None stands for `own_loss`. Raises ValueError for a class instead of an instance of it, and for what is no function.
    """
    if criterion is None:
        return own_loss
    if not callable(criterion):
        raise ValueError(f"the criterion is {criterion!r}, not a loss: give a function of (outputs, targets)")
    if isinstance(criterion, type):
        name = criterion.__name__
        raise ValueError(f"the criterion is the class {name}, not a loss: give an instance of it, {name}()")
    if targets is not None or _takes(criterion, 2):
        return criterion
    alone = criterion
    return lambda outputs, _targets=None: alone(outputs)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes `count` positional arguments; True where its signature is not known."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
        signature.bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True
