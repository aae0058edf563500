"""How curvlinops' operators are made, for releases that take the parameters as a list, and later as a dict by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def operator(
    kind: type, model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, **options: Any
) -> Any:
    """The operator over one batch, for the parameters that require a gradient.

    Its check that the loss is deterministic is left out, since the harness makes it. Releases up to 3.0.1 annotate
    `params` as a list; what will come after 3.0.1 (https://github.com/f-dangel/curvlinops/pull/283) as a dict. Raises
    NotImplementedError for a loss that is no module.
    """
    if not hasattr(criterion, "reduction"):
        raise NotImplementedError("curvlinops needs the loss as a module, such as torch.nn.CrossEntropyLoss()")
    by_name = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = by_name if takes_names(kind) else list(by_name.values())
    return kind(model, criterion, parameters, [(inputs, targets)], check_deterministic=False, **options)


def takes_names(kind: type) -> bool:
    """Whether an operator takes its parameters as a dict by name."""
    annotation = inspect.signature(kind).parameters["params"].annotation
    return "dict" in str(annotation).lower()


def times_identity(operator: Any, model: nn.Module) -> Tensor:
    """The operator as a matrix (P, P)."""
    like = next(model.parameters())
    return operator @ torch.eye(operator.shape[0], dtype=like.dtype, device=like.device)
