"""The processes (ranks) that run one pass of a benchmark cell together, by torch.distributed.

Every rank runs the same pass. Whatever decides what comes next must be the same in all, or they wait for each other for
ever: so a time is that of the slowest rank (`slowest`). Without `join` there is one rank, and nothing is communicated.

The harness has a group of its own, on the CPU, so that a method that communicates too much or too little is seen to
wait, and gets no numbers of the harness.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Place:
    """Which rank a process is, and where the ranks meet."""

    rank: int
    count: int
    store: str  # path of a file by which they find each other
    arrivals: memoryview  # (count,) of int64, shared: how often each has come to where they meet


@dataclass
class _Joined:
    """What a rank knows once it has joined the others."""

    place: Place
    group: Any  # of the harness
    waited_wall_s: float = 0.0
    waited_cpu_s: float = 0.0


_joined: _Joined | None = None


def join(place: Place, longest: timedelta) -> None:
    """Make the harness's own group, in which a rank waits for others so long, of torch.distributed's default group."""
    global _joined
    _joined = _Joined(place, distributed.new_group(backend="gloo", timeout=longest))


def number() -> int:
    """Which rank this process is, from 0 on."""
    return 0 if _joined is None else _joined.place.rank


def count() -> int:
    """How many ranks there are."""
    return 1 if _joined is None else _joined.place.count


def meet() -> None:
    """Wait until every rank is here."""
    if _joined is None:
        return
    began_wall, began_cpu = time.perf_counter(), time.process_time()
    _joined.place.arrivals[_joined.place.rank] += 1
    distributed.barrier(_joined.group)
    _waited_since(began_wall, began_cpu)


def slowest(time_s: float) -> float:
    """The largest of the ranks' times."""
    if _joined is None:
        return time_s
    began_wall, began_cpu = time.perf_counter(), time.process_time()
    _joined.place.arrivals[_joined.place.rank] += 1
    found = torch.tensor(time_s, dtype=torch.float64)
    distributed.all_reduce(found, distributed.ReduceOp.MAX, _joined.group)
    _waited_since(began_wall, began_cpu)
    return float(found)


def added(numbers: Tensor) -> Tensor:
    """The sum over the ranks of tensors (of one shape, on the CPU); the tensor itself where there is one rank."""
    if _joined is not None:
        distributed.all_reduce(numbers, group=_joined.group)
    return numbers


def of_all(value: Any) -> list[Any]:
    """The ranks' values, which can be pickled, in their order."""
    values = [value] * count()
    if _joined is not None:
        distributed.all_gather_object(values, value, _joined.group)
    return values


def waited_s() -> tuple[float, float]:
    """Wall and processor seconds that this rank has waited for others in `meet` and `slowest`."""
    return (0.0, 0.0) if _joined is None else (_joined.waited_wall_s, _joined.waited_cpu_s)


def _waited_since(began_wall: float, began_cpu: float) -> None:
    assert _joined is not None
    _joined.waited_wall_s += time.perf_counter() - began_wall
    _joined.waited_cpu_s += time.process_time() - began_cpu
