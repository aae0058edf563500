"""The gradient of the loss of some samples, in float64 where the network can be computed in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from methods import calls
from methods.ravel import ravel
from methods.samples import Batch

Criterion = Callable[..., Tensor] | None


class Gradients:
    """Gradients of `criterion(model(inputs), targets)` in the model's trainable parameters.

    They are computed in float64: parameters, inputs, targets and whatever else the functions of torch are given are
    cast. Where that raises an error, the network is computed as it is.
    """

    def __init__(self, model: nn.Module, criterion: Criterion) -> None:
        self._model, self._criterion, self._casts = model, criterion, True
        self.theta, self._unravel = ravel(model)
        self.precision = torch.float64  # the lowest that was seen of a result that depends on the parameters

    def __call__(self, batch: Batch, theta: Tensor) -> Tensor:
        """The gradient (P,) of the loss of a batch at theta (P,), in float64."""
        if self._casts:
            try:
                return self._gradient(tree_map(_cast, batch), theta.double())
            except Exception:  # of any kind: it is the user's own code
                self._casts = False
        return self._gradient(batch, theta.to(self.theta)).double()

    def _gradient(self, batch: Batch, theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        loss = calls.loss_of(self._model, calls.completed(self._criterion, batch.targets), *batch)
        with torch.enable_grad(), _Precision(theta.dtype, self._casts) as seen:
            value = loss(self._unravel(theta))
        self.precision = _lower(self.precision, seen.lowest)
        if not value.requires_grad:
            return torch.zeros_like(theta)
        (gradient,) = torch.autograd.grad(value, theta, materialize_grads=True)
        return gradient


class _Precision(TorchFunctionMode):
    """Notices the lowest precision of results that depend on parameters; `casts` casts all that is computed with.

    An explicit conversion to float32 within a network still rounds. Writes into tensors that are not of float64 before,
    such as buffers, are lost.
    """

    def __init__(self, lowest: torch.dtype, casts: bool) -> None:
        super().__init__()
        self.lowest, self._casts = lowest, casts

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function of torch that the network and the criterion call."""
        cast = _cast if self._casts else lambda leaf: leaf
        result = function(*tree_map(cast, args), **tree_map(cast, kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.requires_grad:
            self.lowest = _lower(self.lowest, result.dtype)
        return tree_map(cast, result)


def _cast(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _lower(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)
