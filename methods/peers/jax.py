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

from methods.peers.aten_to_jax import Traced, exactly, to_jax, to_torch, translated


def hessian(loss: Callable[[Tensor], Tensor], theta: Tensor, jit: bool = True) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)) by `jax.hessian`, which is jacfwd(jacrev); compiled if `jit`.

    Calls with the same loss share one translation. Tensors that the loss closes over are copied, bit by bit, when it is
    translated. Raises NotImplementedError for an operator without a translation, or a GPU that JAX does not see.
    """
    with exactly():
        return to_torch(_hessian(loss, Traced(theta), jit)(to_jax(theta)), theta)


def hvp(loss: Callable[[Tensor], Tensor], theta: Tensor, vectors: Tensor, jit: bool = True) -> Tensor:
    """Hessian times `vectors` ((P, k) -> (P, k)), forward over reverse under `jax.vmap`; otherwise as `hessian`."""
    with exactly():
        products = _products(loss, Traced(theta), jit)
        return to_torch(products(to_jax(theta), to_jax(vectors)), theta)


@lru_cache(maxsize=1)
def _hessian(loss: Callable[[Tensor], Tensor], at: Traced, jit: bool) -> Callable[..., Any]:
    function = jax.hessian(translated(loss, *at.tensors))
    return jax.jit(function) if jit else function


@lru_cache(maxsize=1)
def _products(loss: Callable[[Tensor], Tensor], at: Traced, jit: bool) -> Callable[..., Any]:
    gradient = jax.grad(translated(loss, *at.tensors))

    def product(theta: Any, vectors: Any) -> Any:
        return jax.vmap(lambda v: jax.jvp(gradient, (theta,), (v,))[1], in_axes=1, out_axes=1)(vectors)

    return jax.jit(product) if jit else product
