"""What approximations need of each sample: its outputs, its loss, and gradients and Jacobians in the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import jacrev, vjp, vmap
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from methods.calls import call
from methods.ravel import ravel

LossOfSample = Callable[[Tensor, Tensor], Tensor]  # (outputs (C,), target) -> ()


def outputs_of(
    model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any
) -> tuple[Tensor, float, LossOfSample]:
    """Outputs (N, C), and the loss as `weight` times the sum of each sample's: 1 / N for a mean.

    The loss of a sample is a cross-entropy, or the mean of C squared errors (for a sum their sum). Raises
    NotImplementedError for other losses and outputs.
    """
    reduction = getattr(criterion, "reduction", None)
    outputs = call(model, {}, inputs).detach()
    if outputs.dim() != 2 or reduction not in ("mean", "sum"):
        raise NotImplementedError(
            "the loss must be torch.nn.CrossEntropyLoss or MSELoss, its mean or sum, of outputs (N, C); found "
            f"{type(criterion).__name__} with reduction={reduction}, and outputs {tuple(outputs.shape)}"
        )
    mean = reduction == "mean"
    weight = 1 / len(outputs) if mean else 1.0
    if is_plain_cross_entropy(criterion, targets):
        return outputs, weight, cross_entropy
    if isinstance(criterion, nn.MSELoss):
        return outputs, weight, lambda z, y: (z - y).square().mean() if mean else (z - y).square().sum()
    raise NotImplementedError(
        f"the loss must be torch.nn.MSELoss, or CrossEntropyLoss of classes without weights, smoothing or classes to "
        f"ignore; found {criterion}"
    )


def is_plain_cross_entropy(criterion: Callable[..., Tensor], targets: Tensor) -> bool:
    """Whether the loss is a cross-entropy of classes, without weights, smoothing or classes to ignore."""
    return (
        isinstance(criterion, nn.CrossEntropyLoss)
        and criterion.weight is None
        and criterion.label_smoothing == 0
        and criterion.ignore_index == -100
        and not targets.is_floating_point()
    )


def gradients(model: nn.Module, inputs: Any, cotangents: Tensor) -> Tensor:
    """J_n^T u_n (N, P) of each sample, J_n being the Jacobian of its outputs (C,), for `cotangents` u (N, C)."""
    theta, outputs = _of_sample(model)
    return vmap(lambda sample, u: vjp(lambda at: outputs(at, sample), theta)[1](u)[0])(inputs, cotangents)


def jacobians(model: nn.Module, inputs: Any) -> Tensor:
    """The Jacobian (N, C, P) of each sample's outputs in the parameters."""
    theta, outputs = _of_sample(model)
    return vmap(lambda sample: jacrev(outputs)(theta, sample))(inputs)


def _of_sample(model: nn.Module) -> tuple[Tensor, Callable[[Tensor, Any], Tensor]]:
    """The parameters (P,), and the outputs (C,) as a function of them and of one sample's inputs."""
    theta, unravel = ravel(model)

    def outputs(theta: Tensor, sample: Any) -> Tensor:
        return call(model, unravel(theta), tree_map(lambda tensor: tensor[None], sample))[0]

    return theta, outputs


def gram(rows: Tensor, weight: float) -> Tensor:
    """`weight` times the sum of the outer products (P, P) of these rows (n, P)."""
    return (rows.T @ rows).mul_(weight)
