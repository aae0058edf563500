"""JAX: the loss is translated operator by operator, then differentiated and compiled by JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Read once, when JAX starts: its threads, and that it leaves torch's memory on a GPU alone, of which it takes 75 %.
os.environ["NPROC"] = str(torch.get_num_threads())
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import jax

from methods.peers.aten_to_jax import translated


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor, jit: bool = True) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)) by `jax.hessian`, which is jacfwd(jacrev); compiled if `jit`.

    Calls with the same loss share one translation. Tensors that the loss closes over are copied, bit by bit, when it is
    translated. Raises NotImplementedError for an operator without a translation, or a GPU that JAX does not see.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):  # no TF32, as in torch here
        return _to_torch(_hessian(loss, _Traced(theta), jit)(_to_jax(theta)), theta)


def hvp(loss: Callable[[Tensor], Tensor], theta: Tensor, vectors: Tensor, jit: bool = True) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)), forward over reverse under `jax.vmap`; otherwise as `hessian`."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):  # no TF32, as in torch here
        products = _products(loss, _Traced(theta), jit)
        return _to_torch(products(_to_jax(theta), _to_jax(vectors)), theta)


class _Traced:
    """The point at which a loss is traced. It equals every point of the same size, dtype and device."""

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta.detach()
        self._kind = theta.shape, theta.dtype, theta.device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traced) and self._kind == other._kind

    def __hash__(self) -> int:
        return hash(self._kind)


@lru_cache(maxsize=1)
def _hessian(loss: Callable[[Tensor], Tensor], at: _Traced, jit: bool) -> Callable[..., Any]:
    function = jax.hessian(translated(loss, at.theta))
    return jax.jit(function) if jit else function


@lru_cache(maxsize=1)
def _products(loss: Callable[[Tensor], Tensor], at: _Traced, jit: bool) -> Callable[..., Any]:
    gradient = jax.grad(translated(loss, at.theta))

    def product(theta: Any, vectors: Any) -> Any:
        return jax.vmap(lambda v: jax.jvp(gradient, (theta,), (v,))[1], in_axes=1, out_axes=1)(vectors)

    return jax.jit(product) if jit else product


def _to_jax(tensor: Tensor) -> Any:
    if tensor.is_cuda and jax.default_backend() != "gpu":
        raise NotImplementedError(f"JAX sees no GPU here, only {jax.default_backend()}: pip install 'jax[cuda]'")
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def _to_torch(array: Any, like: Tensor) -> Tensor:
    return torch.from_dlpack(array.block_until_ready()).to(like.device)
