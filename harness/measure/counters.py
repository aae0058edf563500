"""Counts that are the same on every machine and in every run: operations, FLOPs, and what torch.compile made."""

from __future__ import annotations

import abc
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class LocalMode(TorchDispatchMode, abc.ABC):
    """Sees the operators that this process runs: of an operator on a DTensor those that this one calls in turn.

    A mode is asked before a tensor's class, which gets its turn where the mode returns NotImplemented: so does torch's
    CommDebugMode.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensor = sys.modules.get("torch.distributed.tensor")  # whoever has a DTensor has imported it
        if tensor is not None and any(issubclass(kind, tensor.DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.see(func, args, kwargs or {}, result)
        return result

    @abc.abstractmethod
    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Take notice of an operator that was run."""


class Counter(LocalMode):
    """Counts the ATen operators that reach the dispatcher's lowest level, views included, and their FLOPs."""

    operations = 0
    flops = 0

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Count the operator."""
        self.operations += 1
        formula = _formula(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)


@functools.cache
def _formula(packet: Any) -> Callable[..., int] | None:
    """The FLOPs of an operator; of one in place, such as `baddbmm_`, those of the operator that it is a variant of."""
    name = packet.__name__
    plain = getattr(torch.ops.aten, name.removesuffix("_"), packet) if name.endswith("_") else packet
    return flop_registry.get(plain)


def count(call: Callable[[], Any]) -> dict[str, int]:
    """`operations` and `flops` of one call.

    FLOPs follow the formulas of torch.utils.flop_counter, whose own mode takes more than twice as long. Each
    multiply-add of matrix products, convolutions and attention counts two, forward and backward. Elementwise
    operations, reductions, normalisations and matrix-vector products count nothing.
    """
    with Counter() as counter:
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
