"""The diagonal of the Hessian or of the GGN, with zeros beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import hessian as hessian_of

from methods import factored
from methods.approximations.samples import jacobians, outputs_of
from methods.estimates import Approximation


def hessian(model: torch.nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Approximation:
    """The diagonal of the Hessian by `methods.factored`, as a matrix (P, P)."""
    return Approximation(factored.diagonal(model, criterion, inputs, targets).diag())


def ggn(model: torch.nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Approximation:
    """The diagonal of the GGN, as a matrix (P, P): for each sample n, that of J_n^T L_n J_n.

    J_n is the Jacobian of the sample's outputs and L_n the loss's Hessian in them. Samples must not mix in the network.
    Raises NotImplementedError for another loss than torch's mean or sum of cross-entropies or squared errors.
    """
    outputs, weight, loss_of_sample = outputs_of(model, criterion, inputs, targets)
    curvature = weight * torch.func.vmap(hessian_of(loss_of_sample))(outputs, targets)  # (N, C, C)
    jacobian = jacobians(model, inputs)  # (N, C, P)
    return Approximation(torch.einsum("ncp,ncd,ndp->p", jacobian, curvature, jacobian).diag())
