"""asdl (asdfghjkl, Osawa et al. 2023): the upper triangle of the Hessian, a row at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from asdl.hessian import HessianConfig, HessianMaker
from torch import Tensor, nn


def hessian(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor) -> Tensor:
    """Hessian (P, P) by `HessianMaker` with `hessian_shapes=["full"]`.

    It works on a copy of the model, since asdl stores the result in the model.
    """
    model = copy.deepcopy(model)
    maker = HessianMaker(model, HessianConfig(hessian_shapes=["full"]))
    maker.setup_loss_call(criterion, maker.setup_model_call(model, inputs), targets)
    maker.forward_and_backward()
    return getattr(model, maker.config.hessian_attr).data.detach()
