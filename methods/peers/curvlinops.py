"""curvlinops (Dangel et al. 2025): linear operators for the Hessian and the GGN, multiplied with the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import Tensor, nn


def hessian(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Hessian (P, P) as `HessianLinearOperator @ I`: a jvp of jacrev under vmap, all P at once.

    Silently wrong under LayerNorm (curvlinops 3.0.1 with torch 2.13), because of jacrev. Raises NotImplementedError for
    a loss that is no module.
    """
    return _times_identity(_operator(HessianLinearOperator, model, criterion, inputs, targets), model)


def hvp(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, vectors: Tensor) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)); errors as for `hessian`."""
    return _operator(HessianLinearOperator, model, criterion, inputs, targets) @ vectors


def ggn(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Generalised Gauss-Newton matrix (P, P) as `GGNLinearOperator @ I`; errors as for `hessian`."""
    return _times_identity(_operator(GGNLinearOperator, model, criterion, inputs, targets), model)


def _operator(kind: type, model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Any:
    """The operator over one batch. Its check that the loss is deterministic is left out, since the harness makes it."""
    if not hasattr(criterion, "reduction"):
        raise NotImplementedError("curvlinops needs the loss as a module, such as torch.nn.CrossEntropyLoss()")
    params = [p for p in model.parameters() if p.requires_grad]
    return kind(model, criterion, params, [(inputs, targets)], check_deterministic=False)


def _times_identity(operator: Any, model: nn.Module) -> Tensor:
    like = next(model.parameters())
    return operator @ torch.eye(operator.shape[0], dtype=like.dtype, device=like.device)
