"""Batches that are gone through several times, each with its weight in the loss over all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils._pytree import tree_leaves, tree_map

from methods import samples
from methods.batching.divisors import Divisor
from methods.batching.group import of_all
from methods.samples import Batch, Source

Progress = Callable[[int, int], None]  # (batches that are done, all batches)


class Batches:
    """The batches of a data set, moved to a device.

    The first pass asks each for the divisor of its mean, and lets `examine` refuse it. A later pass raises ValueError
    where a batch is another one.
    """

    def __init__(
        self,
        given: Source,
        device: torch.device,
        divisor: Divisor | None,
        examine: Callable[[Batch], None],
        progress: Progress | None,
        group: ProcessGroup | None,
    ) -> None:
        """`group` are processes that have batches of their own, which all count together.

        Raises ValueError as `samples.batches`, and where a process has no batches, or none counts in any process.
        """
        self._given, self._device, self._progress = given, device, progress
        self._fingerprints: list[Any] = []
        self._divisors: list[float] = []

        def first_pass() -> float:
            for batch in samples.batches(given):
                moved = self._moved(batch)
                self._fingerprints.append(_fingerprint(batch))
                self._divisors.append(1.0 if divisor is None else divisor(*moved))
                examine(moved)
            if not self._fingerprints:
                raise ValueError(
                    "there are no batches, or they were gone through before: nothing came from their iterator"
                )
            return sum(self._divisors)

        self.totals = [first_pass()] if group is None else of_all(group, device, first_pass)  # of each process
        if not any(self.totals):
            raise ValueError("no target counts in any batch: all are ignored, or have the weight 0")
        self._total = 1.0 if divisor is None else sum(self.totals)

    def __iter__(self) -> Iterator[tuple[float, Batch]]:
        """Each batch and its weight, except those of weight 0."""
        count = len(self._fingerprints)
        for index, batch in enumerate(self.all()):
            if self._divisors[index]:
                yield self._divisors[index] / self._total, batch
            if self._progress is not None:
                self._progress(index + 1, count)

    def counting(self) -> Iterator[Batch]:
        """Each batch whose weight is not 0."""
        return (batch for batch, divisor in zip(self.all(), self._divisors, strict=True) if divisor)

    def all(self) -> Iterator[Batch]:
        """Each batch, whether it counts or not."""
        count = len(self._fingerprints)
        index = -1
        for index, batch in enumerate(samples.batches(self._given)):
            if index >= count or _fingerprint(batch) != self._fingerprints[index]:
                raise ValueError(
                    f"batch {index} is not what it was when the batches were first gone through: they must be the "
                    "same each time, without shuffling, random changes or missing samples"
                )
            yield self._moved(batch)
        if index + 1 < count:
            raise ValueError(f"there were {count} batches when they were first gone through, and now {index + 1}")

    def _moved(self, batch: Batch) -> Batch:
        return tree_map(lambda leaf: leaf.to(self._device) if isinstance(leaf, Tensor) else leaf, batch)


def _fingerprint(batch: Batch) -> list[Any]:
    """What tells a batch from another one: what it holds, and the shape, the dtype and a hash of each tensor."""
    return [_hash(leaf) if isinstance(leaf, Tensor) else _shown(leaf) for leaf in tree_leaves(batch)]


def _shown(leaf: Any) -> str:
    return repr(leaf) if isinstance(leaf, samples.SHARED) else type(leaf).__name__


def _hash(tensor: Tensor) -> tuple[Any, ...]:
    """Of a sparse or nested tensor only the dtype and the layout."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return tensor.dtype, tensor.layout
    entries = tensor.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return tensor.shape, tensor.dtype, hashlib.blake2b(entries.view(-1).view(torch.uint8).numpy().data).digest()
