"""Hessian-vector products of a network whose samples are shared among processes, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from methods import batches, create_graph_rows, samples
from methods.batching.divisors import Divisor
from methods.ravel import ravel
from methods.sharded.layout import require_same_parameters


def hvp(
    model: nn.Module,
    criterion: Callable[..., Tensor] | None,
    inputs: Any,
    targets: Any,
    vectors: Tensor,
    mesh: DeviceMesh,
    weights: str | Divisor | None = None,
) -> Tensor:
    """Hessian of `criterion(model(inputs), targets)` times `vectors` (P, k), as (P, k), by double backward.

    A process takes its part of the samples; the products of all are added up by one all-reduce of P k numbers. Every
    process gets them. `weights` is as in `methods.batches`. Where processes load samples of their own, call
    `batches.hvp(method, model, criterion, own_batches, vectors, group=mesh.get_group())` instead.

    Raises ValueError where there are fewer samples than processes or where parameters are not the same in all, and as
    `batches.hvp` does.
    """
    total, count = samples.count(inputs), mesh.size()
    if total < count:
        raise ValueError(f"there are {total} samples for {count} processes: each takes one at least")
    require_same_parameters(ravel(model)[0], mesh)
    rank = mesh.get_local_rank()
    own = slice(rank * total // count, (rank + 1) * total // count)
    taken = samples.taken(inputs, own, total), samples.taken(targets, own, total)
    group = mesh.get_group()
    return batches.hvp(create_graph_rows, model, criterion, [taken], vectors, weights=weights, group=group)
