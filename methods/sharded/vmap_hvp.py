"""The Hessian by vmapped Hessian-vector products, its rows sharded over processes."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from methods import vmap_hvp
from methods.sharded.layout import assembled, own_rows, require_same_parameters


def hessian(
    loss: vmap_hvp.Loss,
    theta: Tensor,
    mesh: DeviceMesh,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> DTensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), sharded by rows; options as for `methods.vmap_hvp.hvp`.

    A process computes its rows, with no work twice. `loss` and `theta` must be the same in all of them. Only two
    numbers are communicated, by which `theta` is compared. Raises ValueError where it differs.
    """
    rows = own_rows(mesh, theta.numel())
    require_same_parameters(theta, mesh)
    options = composition, chunk_size, memory_budget_mb, compile
    return assembled(vmap_hvp.hessian_rows(loss, theta, rows, *options), mesh)
