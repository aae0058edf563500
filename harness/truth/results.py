"""What a method returned: plain tensors of the right kind, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import]

from harness.truth.kinds import (
    Approximation,
    Bounded,
    Estimate,
    Spectrum,
    count_fault,
    kind_of,
    mapped,
    tensors_of_kind,
)
from harness.truth.per_sample import shape_of
from harness.truth.shards import RowShard, layout_fault, shard_fault, shard_of

APPROXIMATED = ("hessian", "ggn")  # quantities that a method may approximate


class ResultFault(RuntimeError):
    """What one rank of several returned cannot be read: the cell ends."""


def plain(result: Any) -> Any:
    """A result without Tensor subclasses, which may answer for themselves: tensors, a tuple of them or one of a kind.

    A subclass's own data are taken. Of a DTensor sharded by rows it is a `RowShard`, or its only shard. A subclass that
    computes by `__torch_dispatch__` has no data that can be trusted: it stays as it is, and `result_fault` refuses it.
    """
    if kind_of(result) is not None:
        return mapped(plain, result)
    if type(result) in (tuple, list):
        return type(result)(map(plain, result))
    result = shard_of(result)
    if not issubclass(type(result), Tensor) or _dispatches(result) or type(result) is Tensor:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(result, Tensor)


def result_tensors(result: Any) -> list[Any]:
    """The tensors by which a result is told from another.

    They are the blocks of a block-diagonal, the value of an approximation or of a result that states its error, the
    moments of a spectrum, or the result itself.
    """
    kind = kind_of(result)
    if kind is not None:
        return [result.moments if kind is Spectrum else result.value]
    return list(result) if isinstance(result, tuple | list) else [result]


def reported_tensors(result: Any) -> list[Any]:
    """All tensors of a plain result, with those that state its error."""
    if kind_of(result) is None:
        return result_tensors(result)
    return [getattr(result, name) for name in tensors_of_kind(result)]


def result_fault(
    result: Any,
    quantity: str,
    theta: Tensor,
    vectors: Tensor | None,
    sizes: Sequence[int] = (),
    k: int = 0,
    points: Tensor | None = None,
) -> str | None:
    """What is wrong with the kind of thing a method returned; None where it is as asked.

    - A matrix, a diagonal and products are tensors.
    - A block-diagonal is a tuple of tensors, one for each of `sizes`.
    - Of each sample's own derivatives, at `points` (N, D), one tensor holds all; diagonals and traces may be estimates.
    - A matrix may be a DTensor with placement Shard(0), over all ranks.
    - Eigenvalues are a tensor of `k` + 1, a trace is one of (), products with an inverse are as the vectors.
    - A spectrum, a random estimate and a result that states its error are as `methods.estimates` describes them.
    - An approximation of a matrix has a `value` and nothing else.

    That a result requires grad is no fault of its values, which are judged.
    """
    stripped: Any = plain(result)
    shapes = _shapes(quantity, theta, vectors, sizes, k) if points is None else [shape_of(quantity, points, vectors)]
    if quantity == "block_diagonal":
        fault = _blocks_fault(stripped, sizes)
        tensors: Any = stripped
    elif kind_of(stripped) is not None or quantity == "spectrum":
        fault = _kind_fault(stripped, quantity) if points is None else _estimate_fault(stripped, quantity)
        tensors = reported_tensors(stripped)
        shapes = _shapes_of_kind(stripped, quantity, shapes[0])
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


def _shapes(
    quantity: str, theta: Tensor, vectors: Tensor | None, sizes: Sequence[int], k: int
) -> list[tuple[int, ...]]:
    """The shapes of the tensors of a quantity."""
    params = theta.numel()
    if quantity == "diagonal":
        return [(params,)]
    if quantity == "eigenvalues":
        return [(k + 1,)]
    if quantity in ("trace", "spectrum"):
        return [()]
    if quantity in ("hvp", "ihvp"):
        return [() if vectors is None else tuple(vectors.shape)]
    if quantity == "block_diagonal":
        return [(size, size) for size in sizes]
    return [(params, params)]


def _blocks_fault(result: Any, sizes: Sequence[int]) -> str | None:
    if kind_of(result) is not None:
        kind = "an estimate" if isinstance(result, Estimate) else f"a {type(result).__name__}"
        return f"returned {kind}; block_diagonal is a tuple of {len(sizes)} tensors, and not estimated"
    several = isinstance(result, tuple | list)
    if several and len(result) == len(sizes):
        return None
    found = f"{len(result)} of them" if several else type(result).__name__
    return f"returned {found}; block_diagonal is a tuple of {len(sizes)} tensors, one for each parameter tensor"


def _kind_fault(result: Any, quantity: str) -> str | None:
    """What is wrong with a result that should be of a kind: another kind, or its counts."""
    if (quantity == "spectrum") != isinstance(result, Spectrum):
        wanted = "a Spectrum" if quantity == "spectrum" else "no Spectrum"
        return f"returned {type(result).__name__}; {quantity} is {wanted} (methods.estimates)"
    if isinstance(result, Spectrum) and not (isinstance(result.nodes, Tensor) and result.nodes.dim() == 1):
        return "returned a Spectrum whose nodes are no tensor (m,) (methods.estimates)"
    if isinstance(result, Spectrum) and not len(result.nodes):
        return "returned a Spectrum without nodes"
    if isinstance(result, Estimate) and quantity in ("eigenvalues", "ihvp"):
        return f"returned an estimate; {quantity} is a tensor, or a Bounded with its residuals (methods.estimates)"
    return _approximation_fault(result, quantity) if isinstance(result, Approximation) else count_fault(result)


def _estimate_fault(result: Any, quantity: str) -> str | None:
    """What is wrong with a result of a kind for each sample's own derivatives."""
    if isinstance(result, Estimate) and quantity in ("diagonal", "trace"):
        return count_fault(result)
    wanted = "a tensor or an estimate" if quantity in ("diagonal", "trace") else "a tensor"
    return f"returned {type(result).__name__}; each sample's own {quantity} is {wanted}"


def _shapes_of_kind(result: Any, quantity: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the tensors of a result of a kind, whose value is to have this shape."""
    if isinstance(result, Approximation):
        return [shape]
    if isinstance(result, Spectrum):
        nodes = tuple(result.nodes.shape) if isinstance(result.nodes, Tensor) else ()  # `_kind_fault` names these
        return [nodes, nodes, (4,), (4,)]
    by_vector = isinstance(result, Bounded) and quantity in ("hvp", "ihvp")
    return [shape, shape[1:] if by_vector else shape]


def _approximation_fault(approximation: Approximation, quantity: str) -> str | None:
    if quantity not in APPROXIMATED:
        return f"returned an approximation; only {' and '.join(APPROXIMATED)} are approximated, and {quantity} is not"
    if isinstance(approximation.value, RowShard):
        return "returned an approximation in shards; its value must be one tensor"
    return None


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
    return kind_of(result) is Estimate


def is_approximation(result: Any) -> bool:
    """Whether a result is an approximation by design."""
    return kind_of(result) is Approximation


def _dispatches(tensor: Tensor) -> bool:
    """Whether the tensor is of a subclass that computes its own results."""
    own = getattr(type(tensor), "__torch_dispatch__", None)
    return own is not None and own is not torch._C._disabled_torch_dispatch_impl
