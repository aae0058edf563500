"""`torch.func.hessian`, which is jacfwd(jacrev)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor, compile: bool = False) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)): all P forward-over-reverse products at once.

    On networks with an affine LayerNorm the result is silently off by percents (torch 2.13), because of the inner
    jacrev. `compile` compiles the function by torch.compile; calls with the same loss share the compiled function.
    """
    return (_compiled if compile else torch.func.hessian)(loss)(theta)


@lru_cache(maxsize=1)
def _compiled(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.compile(torch.func.hessian(loss), dynamic=False)
