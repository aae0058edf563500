"""curvlinops (Dangel et al. 2025): linear operators for the Hessian and the GGN, multiplied with the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import Tensor, nn

from methods.peers.curvlinops_operators import operator, times_identity


def hessian(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Hessian (P, P) as `HessianLinearOperator @ I`: a jvp of jacrev under vmap, all P at once.

    Silently wrong under LayerNorm (curvlinops 3.0.1 with torch 2.13), because of jacrev. Raises NotImplementedError for
    a loss that is no module.
    """
    return times_identity(operator(HessianLinearOperator, model, criterion, inputs, targets), model)


def hvp(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, vectors: Tensor) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)); errors as for `hessian`."""
    return operator(HessianLinearOperator, model, criterion, inputs, targets) @ vectors


def ggn(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Generalised Gauss-Newton matrix (P, P) as `GGNLinearOperator @ I`; errors as for `hessian`."""
    return times_identity(operator(GGNLinearOperator, model, criterion, inputs, targets), model)
