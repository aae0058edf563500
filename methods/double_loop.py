"""The double loop over a weight matrix that many people write first. It finds the diagonal, not the Hessian.

    gradients = torch.autograd.grad(loss, params, retain_graph=True)         # create_graph=True is missing
    for i in range(rows):
        for j in range(columns):
            second[i, j] = torch.autograd.grad(gradients[0][i][j], params, retain_graph=True)[0][i, j]

Without create_graph=True torch raises "element 0 of tensors does not require grad and does not have a grad_fn". With
create_graph=True `second[i, j]` is d^2 loss / d W_ij^2. That is one number for each entry of W: the diagonal of the
Hessian's block for W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _second(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    create_graph: bool,
) -> Tensor:
    params = [p for p in model.parameters() if p.requires_grad]
    loss = criterion(model(inputs), targets)
    gradients = torch.autograd.grad(loss, params, retain_graph=True, create_graph=create_graph)
    rows, columns = params[0].shape
    second = torch.zeros_like(params[0], requires_grad=False)
    for i in range(rows):
        for j in range(columns):
            second[i, j] = torch.autograd.grad(gradients[0][i][j], params, retain_graph=True)[0][i, j]
    return second


def hessian(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    create_graph: bool = True,
) -> Tensor:
    """What the double loop finds, taken for a Hessian (P, P): its numbers on the diagonal, zeros elsewhere.

    Only for a network whose one parameter is a matrix of P entries. Without `create_graph` torch raises RuntimeError.
    """
    return _second(model, criterion, inputs, targets, create_graph).flatten().diag()


def diagonal(
    model: torch.nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    create_graph: bool = True,
) -> Tensor:
    """What the double loop finds: the diagonal (P,) of the Hessian. For the same networks as `hessian`."""
    return _second(model, criterion, inputs, targets, create_graph).flatten()
