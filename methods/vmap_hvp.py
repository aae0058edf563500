"""Vectorised Hessian-vector products: vmap over one-hot tangents, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap


def hessian(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    chunk_size: int | None = 64,
    composition: str = "forward_over_reverse",
) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), `chunk_size` rows at once (None: all); options as for `hvp`.

    Memory beyond the output: chunk_size times the activations of one product.
    """
    params = theta.numel()
    chunk_size = _checked(chunk_size) or params
    product = vmap(_product(loss, theta, composition))
    result = theta.new_empty(params, params)
    for start in range(0, params, chunk_size):
        rows = torch.arange(start, min(start + chunk_size, params), device=theta.device)
        one_hot = (rows[:, None] == torch.arange(params, device=theta.device)).to(theta.dtype)
        result[start : start + chunk_size] = product(one_hot)
    return result


def hvp(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    vectors: Tensor,
    chunk_size: int | None = None,
    composition: str = "forward_over_reverse",
) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)), `chunk_size` products at once (None: all).

    `forward_over_reverse` is the jvp of the gradient; `reverse_over_reverse` its vjp, which equals it since the
    Hessian is symmetric, and which also works where torch has no forward-mode rule (mse_loss: "ZeroTensors are
    immutable"). Neither goes through jacrev, which is wrong under LayerNorm.

    Raises ValueError for a chunk_size below 1 or an unknown composition.
    """
    chunk_size = _checked(chunk_size)
    return vmap(_product(loss, theta, composition), in_dims=1, out_dims=1, chunk_size=chunk_size)(vectors)


def _product(loss: Callable[[Tensor], Tensor], theta: Tensor, composition: str) -> Callable[[Tensor], Tensor]:
    """The map v -> H v, (P,) -> (P,)."""
    if composition == "forward_over_reverse":
        return lambda v: jvp(grad(loss), (theta,), (v,))[1]
    if composition == "reverse_over_reverse":
        pullback = vjp(grad(loss), theta)[1]
        return lambda v: pullback(v)[0]
    raise ValueError(f"composition must be forward_over_reverse or reverse_over_reverse; found {composition}")


def _checked(chunk_size: int | None) -> int | None:
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size >= 1):
        raise ValueError(f"chunk_size must be a positive integer, or null for all at once; found {chunk_size}")
    return chunk_size
