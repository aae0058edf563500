"""The factored Hessian of a network, its rows sharded over processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from methods import factored
from methods.factoring.fallback import Fallback
from methods.factoring.sums import Batch, Criterion
from methods.ravel import ravel
from methods.sharded.layout import assembled, own_rows, require_same_parameters


def hessian(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    mesh: DeviceMesh,
    *,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
) -> DTensor:
    """Hessian (P, P) of `criterion(model(inputs), targets)`, sharded by rows; all else as in `methods.factored`.

    A process computes the matrix products of its rows. All other work is done by every process: the derivatives along
    shifts, and the backward passes of parameters that take rows. Entries whose row and whose mirror image belong to
    different processes are computed by both. Every process checks its own rows. Only two numbers are communicated, by
    which parameters are compared. Raises ValueError where they are not the same in all processes.
    """
    return hessian_over_batches(model, [(criterion, inputs, targets)], mesh, memory_mb=memory_mb, fallback=fallback)


def hessian_over_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    mesh: DeviceMesh,
    *,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
) -> DTensor:
    """Hessian (P, P) of the sum over `batches`, as in `methods.factored.hessian_over_batches`."""
    theta, _ = ravel(model)
    rows = own_rows(mesh, len(theta))
    require_same_parameters(theta, mesh)
    return assembled(factored.hessian_rows(model, batches, rows, memory_mb=memory_mb, fallback=fallback), mesh)
