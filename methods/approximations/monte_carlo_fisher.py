"""The Fisher matrix with draws from the model in place of its expectation: the GGN of a likelihood, estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.approximations.samples import gradients, gram, outputs_of
from methods.estimates import Approximation


def hessian(
    model: torch.nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    draws: int = 1,
    seed: int = 0,
) -> Approximation:
    """Mean (P, P) of g g^T over `draws` of every sample's target, g being the gradient of its loss at that target.

    Targets are drawn from the distribution whose negative log-likelihood the loss is: classes by the softmax of the
    outputs, or numbers from a normal distribution around them, of variance C / 2 for a mean of squared errors and 1 / 2
    for a sum. The expectation is the GGN. The same seed gives the same matrix. Samples must not mix in the network.

    Raises ValueError for less than one draw, and NotImplementedError for another loss than torch's mean or sum of
    cross-entropies or squared errors.

    Martens, "New insights and perspectives on the natural gradient method", 2020.
    """
    if not (isinstance(draws, int) and draws >= 1):
        raise ValueError(f"draws must be a whole number of at least 1; found {draws}")
    outputs, weight, _ = outputs_of(model, criterion, inputs, targets)
    generator = torch.Generator(outputs.device).manual_seed(seed)
    rows = torch.cat([gradients(model, inputs, _scores(criterion, outputs, generator)) for _ in range(draws)])
    return Approximation(gram(rows, weight / draws))


def ggn(
    model: torch.nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    draws: int = 1,
    seed: int = 0,
) -> Approximation:
    """The same matrix, as an estimate of the GGN."""
    return hessian(model, criterion, inputs, targets, draws, seed)


def _scores(criterion: Callable[..., Tensor], outputs: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient (N, C) of each sample's loss in its outputs, at a target drawn from the model."""
    if isinstance(criterion, torch.nn.CrossEntropyLoss):
        chances = outputs.softmax(1)
        drawn = chances.multinomial(1, generator=generator)
        return chances.scatter_add(1, drawn, chances.new_full(drawn.shape, -1.0))
    noise = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
    terms = outputs.shape[1] if criterion.reduction == "mean" else 1  # pyright: ignore[reportFunctionMemberAccess]
    return noise * (2 / terms) ** 0.5
