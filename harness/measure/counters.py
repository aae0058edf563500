"""Counts that are the same on every machine and in every run: operations, FLOPs, and what torch.compile made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """Counts the ATen operators that reach the dispatcher's lowest level, views included, and their FLOPs."""

    operations = 0
    flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count(call: Callable[[], Any]) -> dict[str, int]:
    """`operations` and `flops` of one call.

    FLOPs follow the formulas of torch.utils.flop_counter, whose own mode takes more than twice as long. Each
    multiply-add of matrix products, convolutions and attention counts two, forward and backward. Elementwise
    operations, reductions, normalisations and matrix-vector products count nothing.
    """
    with _Counter() as counter:
        call()
    return {"operations": counter.operations, "flops": counter.flops}


def compilation() -> dict[str, int]:
    """`compiled_graphs` and `graph_breaks` of torch.compile in this process; empty where nothing was compiled.

    Compiled code bypasses the dispatcher: its operations cannot be counted.
    """
    from torch._dynamo.utils import counters

    if not counters["frames"]["total"]:
        return {}
    return {
        "compiled_graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def jax_is_imported() -> bool:
    """Whether JAX was imported; torch does not see its memory and operations."""
    return "jax" in sys.modules
