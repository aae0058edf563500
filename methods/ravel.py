"""Flattens a module's parameters, or tensors in tuples, lists and dicts, into one vector, and undoes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_unflatten

Parameters = torch.nn.Module | Tensor | Sequence[Any] | Mapping[str, Any]


def ravel(parameters: Parameters) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Flatten parameters to `theta` (P,), detached. The second result is the function that undoes it.

    Tensors keep the order of the sequences and mappings that hold them. Of a module, those of `named_parameters()` are
    taken that require a gradient, a tied one once. `unravel(theta)` gives views of theta in the same structure: a
    tensor, or tuples, lists and dicts of tensors. For a module it gives a dict by name, as
    `torch.func.functional_call` takes it.

        theta, unravel = ravel(model)
        loss = lambda theta: criterion(functional_call(model, unravel(theta), (inputs,)), targets)

    Raises ValueError where there is no parameter, where one is not a tensor of real floating-point numbers, or where
    they have several dtypes or devices.
    """
    leaves, structure = tree_flatten(_named(parameters))
    places = [place for place, leaf in enumerate(leaves) if leaf is not None]
    tensors = [leaves[place] for place in places]
    _check(parameters, tensors)
    shapes = [tensor.shape for tensor in tensors]

    def unravel(theta: Tensor) -> Any:
        values: list[Any] = [None] * len(leaves)
        for place, part, shape in zip(places, theta.split([shape.numel() for shape in shapes]), shapes, strict=True):
            values[place] = part.view(shape)
        return tree_unflatten(values, structure)

    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]), unravel


def leaves_of(parameters: Parameters) -> list[Tensor]:
    """The tensors that `theta` is made of, in its order."""
    return [leaf for leaf in tree_flatten(_named(parameters))[0] if leaf is not None]


def _named(parameters: Parameters) -> Any:
    if isinstance(parameters, torch.nn.Module):
        return {name: p for name, p in parameters.named_parameters() if p.requires_grad}
    return dict(parameters) if isinstance(parameters, Mapping) and not isinstance(parameters, dict) else parameters


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
