"""Flattens a module's parameters, or tensors in tuples, lists and dicts, into one vector, and undoes it.

Of a module's parameters some may be chosen by their names. The others are then constant.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_unflatten

Parameters = torch.nn.Module | Tensor | Sequence[Any] | Mapping[str, Any]
Patterns = str | Collection[str] | None  # of parameters' names, as in a shell: 'fc.*'; None for all parameters
MOST_NAMES = 20  # that an error lists


def ravel(holder: Parameters, parameters: Patterns = None) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Flatten parameters to `theta` (P,), detached. The second result is the function that undoes it.

    Tensors keep the order of the sequences and mappings that hold them. Of a module, those of `named_parameters()` are
    taken that require a gradient, a tied one once; with `parameters` only those that `trainable` chooses.
    `unravel(theta)` gives views of theta in the same structure: a tensor, or tuples, lists and dicts of tensors. For a
    module it gives a dict by name, as `torch.func.functional_call` takes it.

        theta, unravel = ravel(model, parameters="fc.*")
        loss = lambda theta: criterion(functional_call(model, unravel(theta), (inputs,)), targets)

    Raises ValueError where there is no parameter, where one is not a tensor of real floating-point numbers, where they
    have several dtypes or devices, and as `trainable`.
    """
    leaves, structure = tree_flatten(_named(holder, parameters))
    places = [place for place, leaf in enumerate(leaves) if leaf is not None]
    tensors = [leaves[place] for place in places]
    _check(holder, tensors)
    shapes = [tensor.shape for tensor in tensors]

    def unravel(theta: Tensor) -> Any:
        values: list[Any] = [None] * len(leaves)
        for place, part, shape in zip(places, theta.split([shape.numel() for shape in shapes]), shapes, strict=True):
            values[place] = part.view(shape)
        return tree_unflatten(values, structure)

    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]), unravel


def leaves_of(holder: Parameters, parameters: Patterns = None) -> list[Tensor]:
    """The tensors that `theta` is made of, in its order."""
    return [leaf for leaf in tree_flatten(_named(holder, parameters))[0] if leaf is not None]


def trainable(model: torch.nn.Module, patterns: Patterns = None) -> dict[str, torch.nn.Parameter]:
    """The parameters that require a gradient, by name, in the order of `named_parameters()`.

    With patterns, only those with a name that matches one, as `fnmatch` does: `*` stands for any characters, dots too.
    A tied parameter is taken once, by any of its names. A parameter that is frozen stays so.

    Raises ValueError for what is no pattern and no collection of them, such as a generator, which can be gone through
    only once; for a pattern that matches no name; and where all parameters that match are frozen.
    """
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if patterns is None:
        return free
    asked: Collection[str] = [patterns] if isinstance(patterns, str) else patterns
    several = isinstance(asked, Collection) and bool(asked)
    if not several or not all(isinstance(pattern, str) for pattern in asked):
        raise ValueError(f"parameters={patterns!r} must be a pattern of names, such as 'fc.*', or a list of patterns")
    every = list(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in every]
    for pattern in asked:
        if not fnmatch.filter(names, pattern):
            raise ValueError(_without_match(pattern, names))
    matching = {id(p) for name, p in every if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked)}
    chosen = {name: p for name, p in free.items() if id(p) in matching}
    if not chosen:
        raise ValueError(
            f"parameters={_shown(asked)} matches only frozen parameters, which stay so: call requires_grad_(True) on "
            f"them, or choose among {listed(list(free)) or 'others, once they require a gradient'}"
        )
    return chosen


@contextmanager
def only(model: torch.nn.Module, patterns: Patterns) -> Iterator[None]:
    """Freezes the parameters that `trainable` does not choose, for this block. Raises ValueError as that does."""
    chosen = {id(p) for p in trainable(model, patterns).values()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def listed(names: Sequence[str]) -> str:
    """Names for a message. Of many, those that differ in numbers are written as one pattern."""
    if len(names) > MOST_NAMES:
        names = list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _without_match(pattern: str, names: Sequence[str]) -> str:
    """What to say of a pattern that matches none of the names."""
    if not names:
        return f"parameters={pattern!r} matches nothing: the model has no parameters"
    meant = (f"{pattern}.*", f"*.{pattern}", re.sub(r"\[", "[[]", pattern))
    found = next((other for other in meant if fnmatch.filter(names, other)), None)
    hint = "" if found is None else f"; do you mean {found!r}?"
    if found == meant[-1]:
        hint += " ([...] stands for one of the characters within)"
    return f"parameters={pattern!r} matches none of the names {listed(names)}{hint}"


def _shown(patterns: Collection[str]) -> str:
    """Patterns as they were given: one, or a list."""
    return repr(next(iter(patterns)) if len(patterns) == 1 else list(patterns))


def _named(holder: Parameters, patterns: Patterns) -> Any:
    if isinstance(holder, torch.nn.Module):
        return trainable(holder, patterns)
    if patterns is not None:
        raise ValueError(f"parameters={patterns!r} chooses parameters of a module; found {type(holder).__name__}")
    return dict(holder) if isinstance(holder, Mapping) and not isinstance(holder, dict) else holder


def _check(parameters: Parameters, leaves: Sequence[Any]) -> None:
    """Raise ValueError unless the leaves are real floating-point tensors of one dtype on one device."""
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"parameters must be tensors, or tuples, lists and dicts of tensors; found {type(leaf).__name__}: make "
                "a number a tensor of shape (), and keep apart what is no parameter"
            )
        if is_lazy(leaf):
            raise ValueError(
                "parameters must have their shapes, and those of a lazy module have none before it is called: call "
                "the model once on its inputs"
            )
        if leaf.is_complex():
            raise ValueError(
                f"parameters must be real, found {tuple(leaf.shape)} {leaf.dtype}: make torch.view_as_real(p), of "
                f"shape {(*leaf.shape, 2)}, the parameter, and use torch.view_as_complex of it"
            )
    if not leaves and isinstance(parameters, torch.nn.Module):
        held = sum(p.numel() for p in parameters.parameters())
        why = f"all {held} are frozen: call model.requires_grad_(True)" if held else "the model has none"
        raise ValueError(f"there are no parameters that require a gradient, {why}")
    kinds = {(leaf.dtype, leaf.device, leaf.layout) for leaf in leaves}
    dense = all(leaf.is_floating_point() and leaf.layout == torch.strided for leaf in leaves)
    if len(kinds) != 1 or not dense or not any(leaf.numel() for leaf in leaves):
        found = ", ".join(f"{tuple(leaf.shape)} {leaf.dtype} on {leaf.device}" for leaf in leaves) or "none"
        raise ValueError(f"parameters must be real floating-point tensors of one dtype on one device; found {found}")
