"""From a module, a tuple or a dict of parameters to one flat vector, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def ravel(
    parameters: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | torch.nn.Module,
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Flatten parameters to `theta` (P,), detached, with the function that undoes it.

    The order is that of the sequence or mapping; for a module that of `named_parameters()`, of which those that
    require a gradient are taken (a tied one once). `unravel(theta)` gives views of theta, in the same structure: a
    tensor, a tuple, or a dict (for a module, by name, as `torch.func.functional_call` takes it).

        theta, unravel = ravel(model)
        loss = lambda theta: criterion(functional_call(model, unravel(theta), (inputs,)), targets)

    Raises ValueError where there is no parameter, or parameters of several dtypes or devices, or complex ones.
    """
    if isinstance(parameters, torch.nn.Module):
        parameters = {name: p for name, p in parameters.named_parameters() if p.requires_grad}
    named = isinstance(parameters, Mapping)
    single = isinstance(parameters, Tensor)
    leaves = [parameters] if single else list(parameters.values() if named else parameters)
    kinds = {(leaf.dtype, leaf.device) for leaf in leaves}
    if len(kinds) != 1 or not leaves[0].is_floating_point() or not any(leaf.numel() for leaf in leaves):
        found = ", ".join(f"{tuple(leaf.shape)} {leaf.dtype} on {leaf.device}" for leaf in leaves) or "none"
        raise ValueError(f"parameters must be real floating-point tensors of one dtype on one device; found {found}")
    shapes = [leaf.shape for leaf in leaves]
    names = list(parameters) if named else []

    def unravel(theta: Tensor) -> Any:
        parts = [part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True)]
        if single:
            return parts[0]
        return dict(zip(names, parts, strict=True)) if named else tuple(parts)

    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves]), unravel
