"""laplace-torch (Daxberger et al. 2021): the full Hessian of a fit, through its curvlinops backend."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from laplace import Laplace
from laplace.curvature.curvlinops import CurvlinopsHessian
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset


def hessian(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Hessian (P, P) of a mean cross-entropy or mean squared error: the sum over the data that `fit` makes, rescaled.

    The backend is CurvlinopsHessian, since the default one gives the GGN. It is wrong under LayerNorm, as curvlinops
    is. Raises NotImplementedError for another loss, and for class weights, smoothing or probabilities as targets.
    """
    if _is_plain_cross_entropy(criterion, targets) and criterion.reduction == "mean":
        likelihood, scale = "classification", 1 / targets.numel()
    elif isinstance(criterion, nn.MSELoss) and criterion.reduction == "mean":
        likelihood, scale = "regression", 2 / targets.numel()  # laplace's loss is half the sum of squares
    else:
        raise NotImplementedError("laplace-torch knows plain mean CrossEntropyLoss and mean MSELoss only")
    parameter, default = next(model.parameters()), torch.get_default_dtype()
    # laplace-torch makes its identity matrix in the default dtype and on the default device.
    torch.set_default_dtype(parameter.dtype)
    try:
        with nullcontext() if parameter.is_cpu else parameter.device:
            fit: Any = Laplace(
                copy.deepcopy(model),
                likelihood,
                subset_of_weights="all",
                hessian_structure="full",
                backend=CurvlinopsHessian,
            )
            data = TensorDataset(inputs, targets)
            whole = BatchSampler(SequentialSampler(data), len(data), drop_last=False)  # one batch, indexed at once
            fit.fit(DataLoader(data, sampler=whole, batch_size=None, generator=torch.Generator(parameter.device)))
    finally:
        torch.set_default_dtype(default)
    return fit.H.detach().mul_(scale)


def _is_plain_cross_entropy(criterion: nn.Module, targets: Tensor) -> bool:
    """Whether the loss is a cross-entropy of classes, without weights, smoothing or classes to ignore."""
    return (
        isinstance(criterion, nn.CrossEntropyLoss)
        and criterion.weight is None
        and criterion.label_smoothing == 0
        and criterion.ignore_index == -100
        and not targets.is_floating_point()
    )
