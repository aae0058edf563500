"""hessian-eigenthings (Golmant et al. 2018): Hessian-vector products by double backward, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hessian_eigenthings.loss_fns.standard import supervised_loss
from hessian_eigenthings.operators import HessianOperator
from torch import Tensor, nn


def hvp(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, vectors: Tensor) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)) by `HessianOperator.matvec`, with a new graph for each vector."""
    operator = HessianOperator(model, [(inputs, targets)], supervised_loss(criterion))
    return torch.stack([operator.matvec(v.contiguous()) for v in vectors.unbind(1)], dim=1)


def hessian(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Hessian (P, P), by a product with each column of the identity. The library is made for products, not for this."""
    operator = HessianOperator(model, [(inputs, targets)], supervised_loss(criterion))
    result = torch.empty(operator.size, operator.size, dtype=operator.dtype, device=operator.device)
    one_hot = torch.zeros_like(result[0])
    for index in range(operator.size):
        one_hot[index] = 1
        result[:, index] = operator.matvec(one_hot)
        one_hot[index] = 0
    return result
