"""What a method returned: plain tensors of the right kind, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import]

from harness.truth.per_sample import shape_of
from harness.truth.shards import RowShard, layout_fault, shard_fault, shard_of


class ResultFault(RuntimeError):
    """What one rank of several returned cannot be read: the cell ends."""


class Estimate(NamedTuple):
    """A random estimate, its standard error (of the same shape), and the number of its independent probes."""

    value: Tensor
    standard_error: Tensor
    probes: int


def plain(result: Any) -> Any:
    """A result without Tensor subclasses, which may answer for themselves: tensors, a tuple of them or an Estimate.

    A subclass's own data are taken. Of a DTensor sharded by rows it is a `RowShard`, or its only shard. A subclass that
    computes by `__torch_dispatch__` has no data that can be trusted: it stays as it is, and `result_fault` refuses it.
    """
    if is_estimate(result):
        return Estimate(plain(result.value), plain(result.standard_error), result.probes)
    if type(result) in (tuple, list):
        return type(result)(map(plain, result))
    result = shard_of(result)
    if not issubclass(type(result), Tensor) or _dispatches(result) or type(result) is Tensor:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(result, Tensor)


def result_tensors(result: Any) -> list[Any]:
    """The tensors of a plain result: the blocks of a block-diagonal, the value of an estimate, or the result itself."""
    if is_estimate(result):
        return [result.value]
    return list(result) if isinstance(result, tuple | list) else [result]


def result_fault(
    result: Any,
    quantity: str,
    theta: Tensor,
    vectors: Tensor | None,
    sizes: Sequence[int] = (),
    points: Tensor | None = None,
) -> str | None:
    """What is wrong with the kind of thing a method returned; None where it is as asked.

    - A matrix, a diagonal and products are tensors.
    - A block-diagonal is a tuple of tensors, one for each of `sizes`.
    - Of each sample's own derivatives, at `points` (N, D), one tensor holds all; a Hessian is not estimated.
    - A matrix may be a DTensor with placement Shard(0), over all ranks.
    - A random estimate has a `standard_error` of the same shape and its number of `probes`
      (`methods.estimates.Estimate`).

    That a result requires grad is no fault of its values, which are judged.
    """
    stripped: Any = plain(result)
    shapes = _shapes(quantity, theta, vectors, sizes) if points is None else [shape_of(quantity, points, vectors)]
    if quantity == "block_diagonal":
        fault = _blocks_fault(stripped, sizes)
        tensors: Any = stripped
    elif isinstance(stripped, Estimate) and points is not None and quantity == "hessian":
        return "returned an estimate; each sample's Hessian is a tensor (N, D, D), and not estimated"
    elif isinstance(stripped, Estimate):
        fault = _probes_fault(stripped)
        tensors, shapes = [stripped.value, stripped.standard_error], shapes * 2
    elif isinstance(stripped, RowShard):
        fault, tensors, shapes = shard_fault(stripped), [stripped.rows], [(len(stripped.rows), *shapes[0][1:])]
    else:
        fault, tensors = None, [stripped]
    if fault is not None:
        return fault
    for found, shape in zip(tensors, shapes, strict=True):
        fault = _tensor_fault(found, shape, quantity, theta)
        if fault is not None:
            return fault
    return None


def _shapes(quantity: str, theta: Tensor, vectors: Tensor | None, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes of the tensors of a quantity."""
    params = theta.numel()
    if quantity == "diagonal":
        return [(params,)]
    if quantity == "hvp":
        return [() if vectors is None else tuple(vectors.shape)]
    if quantity == "block_diagonal":
        return [(size, size) for size in sizes]
    return [(params, params)]


def _blocks_fault(result: Any, sizes: Sequence[int]) -> str | None:
    if isinstance(result, Estimate):
        return f"returned an estimate; block_diagonal is a tuple of {len(sizes)} tensors, and not estimated"
    several = isinstance(result, tuple | list)
    if several and len(result) == len(sizes):
        return None
    found = f"{len(result)} of them" if several else type(result).__name__
    return f"returned {found}; block_diagonal is a tuple of {len(sizes)} tensors, one for each parameter tensor"


def _probes_fault(estimate: Estimate) -> str | None:
    if type(estimate.probes) is int and estimate.probes >= 1:
        return None
    return f"returned an estimate from {estimate.probes!r} probes; it must be a whole number of at least 1"


def _tensor_fault(result: Any, shape: tuple[int, ...], quantity: str, theta: Tensor) -> str | None:
    name = type(result).__name__
    if not issubclass(type(result), Tensor):
        return f"returned {name}, not a tensor"
    layout = layout_fault(result)
    if layout is not None:
        return layout
    if _dispatches(result):
        return f"returned a {name}, whose numbers its own __torch_dispatch__ makes up: return a plain torch.Tensor"
    if is_functorch_wrapped_tensor(result):
        return "returned a tensor from within a torch.func transform that has ended: return what the transform returns"
    kind = _unusual_kind(result)
    if kind is not None:
        return f"returned a tensor that is {kind}; return a dense one (.to_dense(), .dequantize())"
    if tuple(result.shape) != shape:
        return f"returned shape {tuple(result.shape)}; {quantity} of {theta.numel()} parameters has shape {shape}"
    if result.dtype != theta.dtype or result.device != theta.device:
        return f"returned {result.dtype} on {result.device}; asked for {theta.dtype} on {theta.device}"
    return None


def _unusual_kind(tensor: Tensor) -> str | None:
    """How the entries of a tensor are stored, where it is not dense."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    return str(tensor.layout) if tensor.layout != torch.strided else None


def is_estimate(result: Any) -> bool:
    """Whether a result is a random estimate with its standard error."""
    try:
        return all(hasattr(result, name) for name in ("value", "standard_error", "probes"))
    except Exception:  # the attributes of an object may fail with any exception
        return False


def _dispatches(tensor: Tensor) -> bool:
    """Whether the tensor is of a subclass that computes its own results."""
    own = getattr(type(tensor), "__torch_dispatch__", None)
    return own is not None and own is not torch._C._disabled_torch_dispatch_impl
