"""Memory that is used again: on a CPU, fresh memory for a large product costs as much as the product."""

from __future__ import annotations

import math

from torch import Tensor

from methods.chunks import empty


class Scratch:
    """Tensors for what is needed until the next one of the same name."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def empty(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A tensor of any values. That of the same name before it is overwritten."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size:
            self._memory.pop(name, None)
            memory = self._memory[name] = empty(like, 1, size).flatten()
        return memory[:size].view(shape)
