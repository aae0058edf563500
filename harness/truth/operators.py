"""The operators in the graph of a loss's derivatives, which a record names."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import Node

from harness.truth.precision import reached

LEAF = "torch::autograd::AccumulateGrad"
TRAINING = ("_saved_training", "_saved_train")  # attributes by which an operator shows that it is in train mode


def operators(loss: Callable[[Tensor], Tensor], theta: Tensor) -> list[str]:
    """Names of the operators in the loss's graph of derivatives, sorted, each with which of its inputs depend on theta.

    `NativeLayerNorm 111` is one with weight and bias, `NativeLayerNorm 1` one without; `NativeBatchNorm 111 train` uses
    the batch's own statistics.
    """
    value = loss(theta.detach().requires_grad_())
    return sorted({_described(node) for node in reached([value]) if node.name() != LEAF})


def _described(node: Node) -> str:
    name = node.name().rstrip("0123456789").removesuffix("Backward")
    inputs = "".join("0" if before is None else "1" for before, _ in node.next_functions)
    training = any(getattr(node, attribute, False) is True for attribute in TRAINING)
    return f"{name} {inputs}" + (" train" if training else "")
