"""BackPACK (Dangel, Kunstner and Hennig 2020): the exact diagonal of the Hessian in one extended backward pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import DiagHessian
from torch import Tensor, nn


def diagonal(model: nn.Module, criterion: nn.Module, inputs: Any, targets: Tensor) -> Tensor:
    """Diagonal (P,) of the Hessian, for sequential networks of layers that BackPACK has rules for.

    It works on a copy, since `extend` leaves hooks in the model. Raises NotImplementedError for a loss that is no
    module, and for layers without a rule.
    """
    if not isinstance(criterion, nn.Module):
        raise NotImplementedError("BackPACK needs the loss as a module, such as torch.nn.CrossEntropyLoss()")
    model, criterion = extend(copy.deepcopy(model)), extend(copy.deepcopy(criterion))
    with backpack(DiagHessian()):
        criterion(model(inputs), targets).backward()
    return torch.cat([getattr(p, DiagHessian().savefield).flatten() for p in model.parameters() if p.requires_grad])
