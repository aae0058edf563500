"""What a method returned: plain tensors of the right kind, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import]


class Estimate(NamedTuple):
    """A random estimate with its standard error, of the same shape, from so many independent probes."""

    value: Tensor
    standard_error: Tensor
    probes: int


def plain(result: Any) -> Any:
    """A result without Tensor subclasses, which may answer for themselves: tensors, a tuple of them or an Estimate.

    A subclass's own data are taken; one that computes by `__torch_dispatch__` has none that can be trusted, and stays
    as it is, for `contract` to refuse.
    """
    if is_estimate(result):
        return Estimate(plain(result.value), plain(result.standard_error), result.probes)
    if type(result) in (tuple, list):
        return type(result)(map(plain, result))
    if not issubclass(type(result), Tensor) or _dispatches(result) or type(result) is Tensor:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(result, Tensor)


def contract(
    result: Any, quantity: str, theta: Tensor, vectors: Tensor | None, sizes: Sequence[int] = ()
) -> str | None:
    """What is wrong with the kind of thing a method returned; None if it is as asked.

    A tensor; for a block-diagonal a tuple of them, one for each of `sizes`; a random estimate comes with its
    `standard_error` of the same shape and its number of `probes` (`methods.hutchinson.Estimate`). That a result
    requires grad is no fault of its values, which are judged.
    """
    params = theta.numel()
    products = () if vectors is None else tuple(vectors.shape)
    square = (params, params)
    blocks = [(size, size) for size in sizes]
    shapes = {
        "hessian": [square],
        "ggn": [square],
        "diagonal": [(params,)],
        "hvp": [products],
        "block_diagonal": blocks,
    }[quantity]
    stripped: Any = plain(result)
    if quantity == "block_diagonal" and isinstance(stripped, Estimate):
        return f"returned an estimate; block_diagonal is a tuple of {len(sizes)} tensors, and not estimated"
    if quantity == "block_diagonal" and not (isinstance(stripped, tuple | list) and len(stripped) == len(sizes)):
        found = f"{len(stripped)} of them" if isinstance(stripped, tuple | list) else type(stripped).__name__
        return f"returned {found}; block_diagonal is a tuple of {len(sizes)} tensors, one for each parameter tensor"
    tensors: Any = stripped if quantity == "block_diagonal" else [stripped]
    if isinstance(stripped, Estimate):
        tensors, shapes = [stripped.value, stripped.standard_error], shapes * 2
        if type(stripped.probes) is not int or stripped.probes < 1:
            return f"returned an estimate from {stripped.probes!r} probes; it must be a whole number of at least 1"
    for found, shape in zip(tensors, shapes, strict=True):
        fault = _tensor_fault(found, shape, quantity, theta)
        if fault is not None:
            return fault
    return None


def _tensor_fault(result: Any, shape: tuple[int, ...], quantity: str, theta: Tensor) -> str | None:
    name = type(result).__name__
    if not issubclass(type(result), Tensor):
        return f"returned {name}, not a tensor"
    if _dispatches(result):
        return f"returned a {name}, whose numbers its own __torch_dispatch__ makes up: return a plain torch.Tensor"
    if is_functorch_wrapped_tensor(result):
        return "returned a tensor from within a torch.func transform that has ended: return what the transform returns"
    if result.is_nested or result.layout != torch.strided or result.is_quantized:
        kind = "nested" if result.is_nested else "quantised" if result.is_quantized else str(result.layout)
        return f"returned a tensor that is {kind}; return a dense one (.to_dense(), .dequantize())"
    if tuple(result.shape) != shape:
        return f"returned shape {tuple(result.shape)}; {quantity} of {theta.numel()} parameters has shape {shape}"
    if result.dtype != theta.dtype or result.device != theta.device:
        return f"returned {result.dtype} on {result.device}; asked for {theta.dtype} on {theta.device}"
    return None


def is_estimate(result: Any) -> bool:
    """Whether a result is a random estimate that tells its standard error."""
    try:
        return all(hasattr(result, name) for name in ("value", "standard_error", "probes"))
    except Exception:  # an object whose attributes fail otherwise than Python asks
        return False


def _dispatches(tensor: Tensor) -> bool:
    """Whether the tensor is of a subclass that computes its own results."""
    own = getattr(type(tensor), "__torch_dispatch__", None)
    return own is not None and own is not torch._C._disabled_torch_dispatch_impl
