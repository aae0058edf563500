"""What a call gives to other processes, and how long that takes: zero for a method that does not communicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils._pytree import tree_leaves

from harness.measure import ranks
from harness.measure.counters import LocalMode

# Operators of torch.distributed in which every process gives something, and the number of the argument that holds it.
GIVEN = {
    "c10d::_allgather_base_": 1,
    "c10d::_reduce_scatter_base_": 1,
    "c10d::allgather_": 1,
    "c10d::allgather_coalesced_": 1,
    "c10d::allgather_into_tensor_coalesced_": 1,
    "c10d::allreduce_": 0,
    "c10d::allreduce_coalesced_": 0,
    "c10d::alltoall_": 1,
    "c10d::alltoall_base_": 1,
    "c10d::gather_": 1,
    "c10d::reduce_": 0,
    "c10d::reduce_scatter_": 1,
    "c10d::reduce_scatter_tensor_coalesced_": 1,
    "c10d::scatter_": 1,  # empty but in one process
    "c10d::send": 0,
    "_c10d_functional::all_gather_into_tensor": 0,
    "_c10d_functional::all_gather_into_tensor_coalesced": 0,
    "_c10d_functional::all_gather_into_tensor_out": 0,
    "_c10d_functional::all_reduce": 0,
    "_c10d_functional::all_reduce_": 0,
    "_c10d_functional::all_reduce_coalesced": 0,
    "_c10d_functional::all_reduce_coalesced_": 0,
    "_c10d_functional::all_to_all_single": 0,
    "_c10d_functional::isend": 0,
    "_c10d_functional::reduce_scatter_tensor": 0,
    "_c10d_functional::reduce_scatter_tensor_coalesced": 0,
    "_c10d_functional::reduce_scatter_tensor_out": 0,
}
# Those in which one process gives something, and the number of the argument that is its rank.
GIVEN_BY_ONE = {"c10d::broadcast_": 2, "_c10d_functional::broadcast": 1, "_c10d_functional::broadcast_": 1}
EVENTS = ("gloo:", "nccl:")  # how the profiler names what they do


class _Given(LocalMode):
    """Counts the bytes of the tensors that this process gives to operators of torch.distributed."""

    count = 0

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        name = func.name().partition(".")[0]
        if name in GIVEN or (name in GIVEN_BY_ONE and args[GIVEN_BY_ONE[name]] == distributed.get_rank()):
            given = tree_leaves(args[GIVEN.get(name, 0)])
            self.count += sum(leaf.nbytes for leaf in given if isinstance(leaf, Tensor))


def measure(call: Callable[[], Any]) -> dict[str, int | float]:
    """`communicated_bytes` that this process gives to others in one call, and `communication_s` of another call.

    The time is that of all collectives by torch's profiler, with waiting for other processes, all of which begin the
    call together; of collectives at the same time it counts each.
    """
    ranks.meet()
    with _Given() as given:
        call()
    profiler = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
    ranks.meet()
    with profiler:
        call()
    ranks.meet()  # so that it is known which rank did not end its call
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    spent_ns = sum(event.duration_ns() for event in events if event.name().startswith(EVENTS))
    return {"communicated_bytes": given.count, "communication_s": spent_ns / 1e9}
