"""What a call gives to other processes, and how long that takes: zero for a method that does not communicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OPERATORS = ("c10d", "_c10d_functional")  # namespaces of torch.distributed's operators
EVENTS = ("gloo:", "nccl:")  # how the profiler names what they do


class _Given(TorchDispatchMode):
    """Counts the bytes of the tensors that this process gives to operators of torch.distributed."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace in OPERATORS and "wait" not in func.__name__:
            named = zip((argument.name for argument in func._schema.arguments), args, strict=False)
            given = [value for name, value in (*named, *(kwargs or {}).items()) if not name.startswith("output")]
            self.count += sum(leaf.nbytes for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


def measure(call: Callable[[], Any]) -> dict[str, int | float]:
    """`communicated_bytes` that this process gives to others in one call, and `communication_s` of another call.

    The time is that of all collectives by torch's profiler, with waiting for other processes; of collectives at the
    same time it counts each.
    """
    with _Given() as given:
        call()
    profiler = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
    with profiler:
        call()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    spent_ns = sum(event.duration_ns() for event in events if event.name().startswith(EVENTS))
    return {"communicated_bytes": given.count, "communication_s": spent_ns / 1e9}
