"""A fit by laplace-torch, whose curvature is a sum over the data."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from laplace import Laplace
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from methods.approximations.samples import is_plain_cross_entropy


def fitted(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, structure: str, backend: type
) -> tuple[Any, float]:
    """The fit's curvature `H` in a structure ("full", "kron" or "diag"), and what it must be multiplied with.

    Raises NotImplementedError for another loss than a mean cross-entropy of classes or a mean squared error, and for
    class weights, smoothing or probabilities as targets.
    """
    mean = getattr(criterion, "reduction", None) == "mean"
    if mean and is_plain_cross_entropy(criterion, targets):
        likelihood, scale = "classification", 1 / targets.numel()
    elif mean and isinstance(criterion, nn.MSELoss):
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
                hessian_structure=structure,
                backend=backend,
            )
            data = TensorDataset(inputs, targets)
            whole = BatchSampler(SequentialSampler(data), len(data), drop_last=False)  # one batch, indexed at once
            fit.fit(DataLoader(data, sampler=whole, batch_size=None, generator=torch.Generator(parameter.device)))
    finally:
        torch.set_default_dtype(default)
    return fit.H, scale
