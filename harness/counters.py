"""Counts that are the same on every machine and every night: operations, allocations, floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class _Operations(TorchDispatchMode):
    """Counts the ATen operators that reach the dispatcher's lowest level, views included."""

    count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count(call: Callable[[], Any]) -> dict[str, int]:
    """`operations` and `flops` of one call.

    FLOPs are those of torch.utils.flop_counter: two for each multiply-add of matrix products, convolutions and
    attention, forward and backward; elementwise operations, reductions, normalisations and matrix-vector products
    count nothing.
    """
    with FlopCounterMode(display=False) as flops, _Operations() as operations:
        call()
    return {"operations": operations.count, "flops": flops.get_total_flops()}
