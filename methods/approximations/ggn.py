"""The generalised Gauss-Newton matrix (GGN) in place of the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods import vmap_ggn
from methods.estimates import Approximation


def hessian(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Approximation:
    """The GGN (P, P) by `methods.vmap_ggn`: the Hessian without the second derivatives of the network."""
    return Approximation(vmap_ggn.ggn(model, criterion, inputs, targets, chunk_size, memory_budget_mb))
