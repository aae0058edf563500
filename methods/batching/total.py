"""The weighted sum of the results of batches, in one process or over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from methods.batching.group import objects


class Total:
    """The weighted sum of results, tensors or tuples of tensors. A tensor is added up in `out`, if given."""

    def __init__(self, out: Tensor | None) -> None:
        self._out = out
        self._sums: list[Tensor] = []
        self._dtypes: list[torch.dtype] = []
        self._single = False

    def add(self, weight: float, result: Any) -> None:
        """Add a result.

        Raises NotImplementedError for what is no tensor or tuple of tensors, such as an estimate, and ValueError where
        the sum cannot be held in `out`.
        """
        parts = (result,) if isinstance(result, Tensor) else result
        if type(parts) is not tuple or not all(isinstance(part, Tensor) for part in parts):
            raise NotImplementedError(f"results of type {type(result).__name__} cannot be added up over batches")
        if not self._sums:
            self._single, self._dtypes = parts is not result, [part.dtype for part in parts]
            self._sums = self._zeros(parts)
        for total, part in zip(self._sums, parts, strict=True):
            total.add_(part, alpha=weight)

    def _zeros(self, parts: Sequence[Tensor]) -> list[Tensor]:
        wanted = [(part.shape, torch.promote_types(part.dtype, torch.float32), part.device) for part in parts]
        if self._out is None:
            return [torch.zeros_like(part, dtype=dtype) for part, (_, dtype, _) in zip(parts, wanted, strict=True)]
        if wanted != [(self._out.shape, self._out.dtype, self._out.device)]:
            shown = ", ".join(f"{tuple(shape)} {dtype} {device}" for shape, dtype, device in wanted)
            found = f"{tuple(self._out.shape)} {self._out.dtype} {self._out.device}"
            raise ValueError(f"out is {found}; the sum over batches is {shown}")
        return [self._out.zero_()]

    def reduce(self, group: ProcessGroup, device: torch.device, all_have: bool) -> None:
        """Add the sums of the group's other processes; those that have no sum, unless `all_have` one, take zeros."""
        if not all_have:
            own = [torch.empty_like(total, device="meta") for total in self._sums]
            known = next(known for known in objects(group, (own, self._dtypes, self._single)) if known[0])
            if not self._sums:
                shapes, self._dtypes, self._single = known
                self._sums = self._zeros([torch.empty_like(shape, device=device) for shape in shapes])
        for total in self._sums:
            distributed.all_reduce(total, group=group)

    def value(self) -> Tensor | tuple[Tensor, ...]:
        """The sum: `out`, or in the dtype of the results."""
        if self._out is not None:
            return self._out
        found = tuple(total.to(dtype) for total, dtype in zip(self._sums, self._dtypes, strict=True))
        return found[0] if self._single else found
