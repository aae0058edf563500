"""What the mean in a criterion divides by, which decides how the batches of a data set are weighed.

The loss over all samples is sum_b d_b loss_b / sum_b d_b for a criterion that is a mean, with the divisor d_b of each
batch: the number of samples, of entries, of targets that are not ignored, or the sum of their class weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import calls, samples
from methods.samples import Batch

Divisor = Callable[[Any, Any], float]  # (inputs, targets) -> d_b
Weights = str | Divisor | None  # "mean" over samples, "sum", that function, or None: known from the criterion


def _entries(criterion: Any, targets: Tensor) -> float:
    return targets.numel()


def _samples(criterion: Any, targets: Tensor) -> float:
    """Targets (N,): a class for each sample."""
    return targets.numel()


def _rows(criterion: Any, targets: Tensor) -> float:
    """Targets (N, C) or (C,): the classes are averaged within each sample, too."""
    return targets[..., 0].numel()


def _of_divergence(criterion: nn.KLDivLoss, targets: Tensor) -> float:
    return len(targets) if criterion.reduction == "batchmean" else targets.numel()


def _of_classes(criterion: nn.CrossEntropyLoss | nn.NLLLoss, targets: Tensor) -> float:
    """Numbers of classes count by their weights, and ignored ones not at all; each row (N, C, ...) of probabilities."""
    if targets.is_floating_point():
        return targets.numel() / targets.shape[min(targets.dim() - 1, 1)]
    counted = targets[targets != criterion.ignore_index].long()
    if criterion.weight is None:
        return counted.numel()
    return float(criterion.weight.detach().double()[counted.to(criterion.weight.device)].sum())


# The criteria of torch.nn that take (outputs, targets).
DIVISORS: dict[type, Callable[[Any, Tensor], float]] = {
    nn.BCELoss: _entries,
    nn.BCEWithLogitsLoss: _entries,
    nn.CrossEntropyLoss: _of_classes,
    nn.HingeEmbeddingLoss: _entries,
    nn.HuberLoss: _entries,
    nn.KLDivLoss: _of_divergence,
    nn.L1Loss: _entries,
    nn.MSELoss: _entries,
    nn.MultiLabelMarginLoss: _rows,
    nn.MultiLabelSoftMarginLoss: _rows,
    nn.MultiMarginLoss: _samples,
    nn.NLLLoss: _of_classes,
    nn.PoissonNLLLoss: _entries,
    nn.SmoothL1Loss: _entries,
    nn.SoftMarginLoss: _entries,
}
# Those of them that take targets of another shape than the outputs, and broadcast one to the other.
BROADCASTING = {
    nn.HingeEmbeddingLoss,
    nn.HuberLoss,
    nn.KLDivLoss,
    nn.L1Loss,
    nn.MSELoss,
    nn.MultiLabelSoftMarginLoss,
    nn.PoissonNLLLoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
}
FUNCTIONS: dict[Any, type] = {
    functional.binary_cross_entropy: nn.BCELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    functional.huber_loss: nn.HuberLoss,
    functional.kl_div: nn.KLDivLoss,
    functional.l1_loss: nn.L1Loss,
    functional.mse_loss: nn.MSELoss,
    functional.multi_margin_loss: nn.MultiMarginLoss,
    functional.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    functional.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.poisson_nll_loss: nn.PoissonNLLLoss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
    functional.soft_margin_loss: nn.SoftMarginLoss,
}


def divisor_of(criterion: Any, weights: Weights) -> Divisor | None:
    """What the criterion's mean divides by, as a function of a batch's (inputs, targets); None for a sum.

    `weights` is "mean" (over samples), "sum", or that function. None reads it off a criterion of torch.nn; ValueError
    is raised for any other criterion, for one that gives a loss for each sample, and for other `weights`.
    """
    if weights == "sum":
        return None
    if weights == "mean":
        return lambda inputs, _: samples.count(inputs)
    if callable(weights):
        return lambda inputs, targets: _number(weights(inputs, targets))
    if weights is not None:
        raise ValueError(f"weights={weights!r} must be 'mean', 'sum', a function of (inputs, targets), or None")
    known = _instance(criterion)
    divide = DIVISORS.get(type(known))
    if divide is None:
        raise ValueError(
            f"the criterion {name_of(criterion)} is none of torch.nn that takes (outputs, targets), so that it is not "
            "known how batches are weighed: give weights='mean' for a mean over samples, weights='sum', or a function "
            "of (inputs, targets) that returns what the criterion's mean divides by, such as the number of targets "
            "that count"
        )
    if known.reduction == "sum":
        return None
    if known.reduction == "none":
        raise ValueError(
            f"the criterion {name_of(criterion)} has reduction='none', which gives a loss for each sample or entry: "
            "give one with reduction='mean' or 'sum'"
        )

    def divisor(inputs: Any, targets: Any) -> float:
        if not isinstance(targets, Tensor):
            raise ValueError(f"the targets of {name_of(criterion)} must be a tensor; found {type(targets).__name__}")
        return divide(known, targets)

    return divisor


def require_same_shape(model: nn.Module, criterion: Any, batch: Batch) -> None:
    """Raise ValueError where a criterion of torch.nn would broadcast the targets or the outputs of a batch.

    The number of entries that its mean divides by is then not that of the targets.
    """
    if type(_instance(criterion)) not in BROADCASTING:
        return
    with torch.enable_grad():  # the model may take a gradient within
        outputs = calls.call(model, {}, batch.inputs)
    shapes = [tuple(data.shape) for data in (outputs, batch.targets) if isinstance(data, Tensor)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"the outputs of a batch are {shapes[0]} and its targets {shapes[1]}, of which {name_of(criterion)} would "
            "broadcast one to the other: give targets of the shape of the outputs"
        )


def _instance(criterion: Any) -> Any:
    """The criterion, or an instance of the class that does what a function of torch.nn.functional does."""
    return next((kind() for function, kind in FUNCTIONS.items() if function is criterion), criterion)


def name_of(criterion: Any) -> str:
    """The name of a criterion in messages."""
    return getattr(criterion, "__qualname__", None) or type(criterion).__name__


def _number(found: Any) -> float:
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"the function weights returned {found} for a batch; it must be a number of at least 0")
    return number
