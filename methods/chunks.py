"""What the vectorised methods share: one-hot rows, equal chunks of them, and how many fit a memory budget.

`chunk_size` is the number of rows that are computed at once: an integer, None for all rows, or "auto". "auto" is the
number of rows that fit into `memory_budget_mb` (in units of 10^6 bytes), not counting the result. None is 1,000 on the
CPU. On a GPU it is half of the memory that is free once the result is allocated, rounded down to a power of two. So
processes that find a little more or less of it mostly have the same chunks.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Product = Callable[[Tensor], Tensor]  # rows of vectors (c, P) -> rows of their products (c, P)

CPU_BUDGET_MB = 1000  # where none is given,
FREE_SHARE = 0.5  # and on a GPU: the share of the free memory that is used
FEW = 4  # rows that are computed at once without measuring their memory
HUGE_PAGE = 2**21  # bytes, on x86; below that there is nothing to gain
MARGIN = 1.6  # factor on the measured memory: convolutions allocate up to half as much again within their kernels


def one_hot(rows: slice, theta: Tensor) -> Tensor:
    """The rows of the identity ((P,) -> (c, P)), in theta's dtype and on its device."""
    indices = torch.arange(rows.start, rows.stop, device=theta.device)
    return (indices[:, None] == torch.arange(theta.numel(), device=theta.device)).to(theta.dtype)


def batched(single: Callable[[Tensor], Tensor]) -> Product:
    """A product of one vector, (P,) -> (P,), as a product of rows by vmap. A single row is multiplied without vmap."""
    rows = torch.func.vmap(single)
    return lambda vectors: rows(vectors) if len(vectors) > 1 else single(vectors[0])[None]


def output(theta: Tensor, out: Tensor | None) -> Tensor:
    """`out` for a matrix (P, P) over theta (P,), or a new tensor where it is None.

    Raises ValueError for an `out` of another shape, dtype or device.
    """
    size = theta.numel()
    if out is None:
        return empty(theta, size, size)
    if (out.shape, out.dtype, out.device) != ((size, size), theta.dtype, theta.device):
        found = f"{tuple(out.shape)} {out.dtype} {out.device}"
        raise ValueError(f"out is {found}; the matrix is {(size, size)} {theta.dtype} {theta.device}")
    return out


def empty(theta: Tensor, rows: int, columns: int) -> Tensor:
    """A new matrix (rows, columns) of theta's dtype and device, in huge pages of memory where Linux offers them.

    With glibc's default allocator, every large tensor is new memory, which the kernel clears page by page on the first
    write. In huge pages, that first write was seen to take half as long.
    """
    matrix = theta.new_empty(rows, columns)
    advice, page = getattr(mmap, "MADV_HUGEPAGE", None), mmap.PAGESIZE
    if advice is not None and matrix.device.type == "cpu":
        start = -(-matrix.data_ptr() // page) * page
        length = (matrix.data_ptr() + matrix.nbytes) // page * page - start
        if length >= HUGE_PAGE:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)  # it may be refused
    return matrix


def matrix(
    product: Product,
    theta: Tensor,
    chunk_size: int | str | None,
    memory_budget_mb: float | None,
    out: Tensor | None = None,
) -> Tensor:
    """The symmetric matrix (P, P) that `product` multiplies rows with, written into `out` if given.

    Raises ValueError as `slices` and `output` do.
    """
    result = output(theta, out)
    _fill(result, 0, product, theta, chunk_size, memory_budget_mb)
    return result


def matrix_rows(
    product: Product, theta: Tensor, rows: slice, chunk_size: int | str | None, memory_budget_mb: float | None
) -> Tensor:
    """Consecutive rows (c, P) of the same matrix. Raises ValueError as `slices` does."""
    result = empty(theta, rows.stop - rows.start, theta.numel())
    if len(result):
        _fill(result, rows.start, product, theta, chunk_size, memory_budget_mb)
    return result


def _fill(
    result: Tensor,
    start: int,
    product: Product,
    theta: Tensor,
    chunk_size: int | str | None,
    memory_budget_mb: float | None,
) -> None:
    """Write the rows of the matrix from `start` on into `result` (c, P)."""
    for rows in slices(len(result), chunk_size, product, theta, memory_budget_mb):
        result[rows] = product(one_hot(slice(start + rows.start, start + rows.stop), theta))


def matrix_diagonal(
    product: Product, theta: Tensor, chunk_size: int | str | None, memory_budget_mb: float | None
) -> Tensor:
    """The diagonal (P,) of the same matrix: one entry of each row. Raises ValueError as `slices` does."""
    result = torch.empty_like(theta)
    for rows in slices(theta.numel(), chunk_size, product, theta, memory_budget_mb):
        result[rows] = product(one_hot(rows, theta))[:, rows].diagonal()
    return result


def matrix_times(
    vectors: Tensor, product: Product, theta: Tensor, chunk_size: int | str | None, memory_budget_mb: float | None
) -> Tensor:
    """The same matrix times `vectors` ((P, k) -> (P, k)). Raises ValueError as `slices` does."""
    result = torch.empty_like(vectors)
    for columns in slices(vectors.shape[1], chunk_size, product, theta, memory_budget_mb):
        result[:, columns] = product(vectors[:, columns].T).T
    return result


def slices(
    count: int, chunk_size: int | str | None, product: Product, theta: Tensor, memory_budget_mb: float | None
) -> list[slice]:
    """Slices of one length, at most `chunk_size`, that cover `range(count)`. The last may overlap the one before it.

    They have one length so that compiled code is called with one shape. With "auto" `product` is called with two and
    with four rows to measure its memory, which is linear in the number of rows. A chunk has at least one row, even
    where that exceeds the budget.

    Raises ValueError for another `chunk_size`, or a budget that is not above 0.
    """
    if chunk_size == "auto":
        chunk_size = _fitting(count, product, theta, memory_budget_mb)
    if chunk_size is None:
        chunk_size = count
    if not (isinstance(chunk_size, int) and chunk_size >= 1):
        raise ValueError(
            f"chunk_size must be a positive integer, null for all at once, or auto for what fits memory_budget_mb; "
            f"found {chunk_size}"
        )
    chunks = -(-count // chunk_size)
    length = -(-count // chunks)
    starts = [min(chunk * length, count - length) for chunk in range(chunks)]
    return [slice(start, start + length) for start in starts]


def _fitting(count: int, product: Product, theta: Tensor, memory_budget_mb: float | None) -> int:
    """How many of `count` rows fit the budget; at least one."""
    budget = _budget_bytes(memory_budget_mb, theta.device)
    if count <= FEW:
        return count
    product(one_hot(slice(0, 1), theta))  # torch's errors are raised here; under the mode of `_Live` it may crash
    two, four = _peak_bytes(product, 2, theta), _peak_bytes(product, 4, theta)
    per_row = (four - two) / 2 * MARGIN or 1.0
    fixed = two * MARGIN - 2 * per_row
    return max(1, int((budget - fixed) / per_row))


def _budget_bytes(memory_budget_mb: float | None, device: torch.device) -> float:
    if memory_budget_mb is not None:
        if not memory_budget_mb > 0:
            raise ValueError(f"memory_budget_mb must be above 0; found {memory_budget_mb}")
        return memory_budget_mb * 1e6
    if device.type != "cuda":
        return CPU_BUDGET_MB * 1e6
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    usable = FREE_SHARE * (min(free + reserved, allowed) - allocated)  # what is reserved, torch's allocator uses again
    return 2.0 ** math.floor(math.log2(max(1.0, usable / 1e6))) * 1e6


def _peak_bytes(product: Product, rows: int, theta: Tensor) -> int:
    """The most bytes of tensors alive at once while `rows` products are computed, including the one-hot rows."""
    with _Live() as live:
        product(one_hot(slice(0, rows), theta))
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that operators return, from their allocation to their release."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = weakref.WeakKeyDictionary[Any, None]()
        self.current = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._allocated(tensor.untyped_storage())
        return result

    def _allocated(self, storage: Any) -> None:
        if storage not in self.alive:
            self.alive[storage] = None
            self.current += storage.nbytes()
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._released, storage.nbytes())

    def _released(self, size: int) -> None:
        self.current -= size
