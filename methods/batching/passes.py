"""Batches that are gone through several times, each with its weight in the loss over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.utils._pytree import tree_leaves, tree_map

from methods import samples
from methods.batching.divisors import Divisor

Progress = Callable[[int, int], None]  # (batches that are done, all batches)
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


class Batch(NamedTuple):
    """Some samples."""

    inputs: Any
    targets: Any  # None for a batch that is inputs alone


class Batches:
    """The batches of a data set, moved to a device.

    The first pass asks each for the divisor of its mean. A later pass raises ValueError where a batch is another one.
    """

    def __init__(
        self,
        given: Iterable[Any],
        divisor: Divisor | None,
        device: torch.device,
        progress: Progress | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        """`group` are processes each of which has batches of its own, that count together.

        Raises ValueError for what can be gone through only once, and where there are no batches or none counts.
        """
        if isinstance(given, Iterator):
            raise ValueError(
                f"the batches are a {type(given).__name__}, which can be gone through only once: give a list, a "
                "DataLoader or a generator function, which makes them anew"
            )
        self._given, self._device, self._progress = given, device, progress
        self._prints: list[Any] = []
        self._divisors: list[float] = []
        for batch in self.moved():
            self._prints.append(_print_of(batch))
            self._divisors.append(1.0 if divisor is None else divisor(*batch))
        if not self._prints and group is None:
            raise ValueError("there are no batches, or they were gone through before: nothing came from their iterator")
        own = sum(self._divisors)
        totals = [own] if group is None else _of_all(group, own, device)
        if not all(totals):
            which = "" if group is None else f" of process {totals.index(0.0)}"
            raise ValueError(f"no target counts in any batch{which}: all are ignored, or have the weight 0")
        self._total = 1.0 if divisor is None else sum(totals)

    def __iter__(self) -> Iterator[tuple[float, Batch]]:
        """Each batch and its weight, except those of weight 0."""
        count = len(self._prints)
        index = -1
        for index, batch in enumerate(self.moved()):
            if index >= count or _print_of(batch) != self._prints[index]:
                raise ValueError(
                    f"batch {index} is not what it was when the batches were first gone through: they must be the "
                    "same each time, without shuffling, random changes or missing samples"
                )
            if self._divisors[index]:
                yield self._divisors[index] / self._total, batch
            if self._progress is not None:
                self._progress(index + 1, count)
        if index + 1 < count:
            raise ValueError(f"there were {count} batches when they were first gone through, and now {index + 1}")

    def moved(self) -> Iterator[Batch]:
        """Each batch on the device, whether it counts or not."""

        def move(leaf: Any) -> Any:
            return leaf.to(self._device) if isinstance(leaf, Tensor) else leaf

        for batch in samples.anew(self._given):
            yield Batch(*tree_map(move, _pair(batch)))


def _of_all(group: ProcessGroup, number: float, device: torch.device) -> list[float]:
    """The numbers of the group's processes, in their order."""
    own = torch.tensor(number, dtype=torch.float64, device=device)
    numbers = [torch.empty_like(own) for _ in range(group.size())]
    distributed.all_gather(numbers, own, group=group)
    return [float(entry) for entry in numbers]


def _pair(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets; the targets are None for a batch that is a tensor or a mapping, as Hugging Face's are."""
    if isinstance(batch, Mapping):
        return dict(batch), None
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__
    raise ValueError(
        f"a batch must be (inputs, targets), or inputs alone as a tensor or a dict; found {found}: give several inputs "
        "as a tuple, ((one, two), targets)"
    )


def _print_of(batch: Batch) -> list[Any]:
    """What tells a batch from another one: the shape, the dtype and the sum of the bits of each of its tensors."""
    return [_bits(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout != torch.strided or tensor.is_nested:
        return tensor.dtype, tensor.layout
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    entries = real.detach().contiguous().view(INTEGERS[real.element_size()])
    return tensor.shape, tensor.dtype, int(entries.sum(dtype=torch.int64))
