"""`torch.autograd.functional.hessian`: rows in a loop, vectorized, or forward-over-reverse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def hessian(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)).

    The loss must depend on its argument: with respect to parameters that it closes over, the result is silently zero.
    `vectorize` batches the P second passes by vmap. `outer_jacobian_strategy="forward-mode"` is forward-over-reverse;
    it needs `vectorize`. Raises what torch raises. Source: the documentation of `torch.autograd.functional.hessian`.
    """
    result = torch.autograd.functional.hessian(
        loss, theta, vectorize=vectorize, outer_jacobian_strategy=outer_jacobian_strategy
    )
    return result.detach()  # type: ignore[union-attr]  for a tensor a tensor; in forward mode it requires grad
