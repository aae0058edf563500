"""The empirical Fisher matrix: the second moment of the gradients of the samples' losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from methods.approximations.samples import gradients, gram, outputs_of
from methods.estimates import Approximation


def hessian(model: torch.nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Approximation:
    """Mean (P, P) over samples of g g^T, or their sum for a loss that is a sum; g is the gradient of a sample's loss.

    It has the Fisher matrix's form, but with the targets in place of draws from the model, and is no approximation of
    curvature where these differ. Samples must not mix in the network. Raises NotImplementedError for another loss than
    torch's mean or sum of cross-entropies or squared errors.

    Kunstner, Balles and Hennig, "Limitations of the empirical Fisher approximation for natural gradient descent", 2019.
    """
    outputs, weight, loss_of_sample = outputs_of(model, criterion, inputs, targets)
    scores = vmap(grad(loss_of_sample))(outputs, targets)
    return Approximation(gram(gradients(model, inputs, scores), weight))


def ggn(model: torch.nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Approximation:
    """The same matrix, in place of the GGN."""
    return hessian(model, criterion, inputs, targets)
