"""JAX: each sample's own derivatives under `jax.vmap`; a sample's loss is translated as that of `methods.peers.jax`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

os.environ["NPROC"] = str(torch.get_num_threads())  # read once, when JAX starts, as in `methods.peers.jax`
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import jax
import jax.numpy as jnp
from jax.experimental.jet import jet

from methods.peers.aten_to_jax import Traced, exactly, to_jax, to_torch, translated

SampleLoss = Callable[[Tensor, Any], Tensor]


def hessian(sample_loss: SampleLoss, points: Tensor, samples: Any, jit: bool = True, second: str = "hessian") -> Tensor:
    """Each sample's Hessian (N, D, D) by `jax.hessian`, which is jacfwd(jacrev); compiled if `jit`.

    Calls with the same loss share one translation. Raises NotImplementedError for an operator without a translation, a
    GPU that JAX does not see, and another `second` than hessian, which is for `diagonal` and `trace`.
    """
    if second != "hessian":
        raise NotImplementedError(f"second={second} is for quantity=diagonal and trace; set method.second=hessian")
    return _called(sample_loss, points, samples, jax.hessian, jit)


def diagonal(
    sample_loss: SampleLoss, points: Tensor, samples: Any, jit: bool = True, second: str = "hessian"
) -> Tensor:
    """The diagonals (N, D) of the Hessians.

    `second` is how second derivatives are taken: as the diagonal of the Hessian, or with no Hessian formed, along each
    coordinate by a jvp of a jvp (forward) or by Taylor mode (taylor: `jax.experimental.jet`). Raises ValueError for
    another one, and otherwise as `hessian`.

    Bettencourt, Johnson, Duvenaud, "Taylor-mode automatic differentiation for higher-order derivatives in JAX", 2019.
    """
    if second not in SECOND:
        raise ValueError(f"second must be one of {', '.join(SECOND)}; found {second}")
    return _called(sample_loss, points, samples, SECOND[second], jit)


def trace(sample_loss: SampleLoss, points: Tensor, samples: Any, jit: bool = True, second: str = "hessian") -> Tensor:
    """The traces (N,) of the Hessians, which are the Laplacians; otherwise as `diagonal`."""
    return diagonal(sample_loss, points, samples, jit, second).sum(1)


def hvp(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    vectors: Tensor,
    jit: bool = True,
    second: str = "hessian",
) -> Tensor:
    """Each sample's Hessian times its vectors ((N, D, m) -> (N, D, m)), forward over reverse; errors as `hessian`."""
    if second != "hessian":
        raise NotImplementedError(f"second={second} is for quantity=diagonal and trace; set method.second=hessian")
    return _called(sample_loss, points, samples, _products, jit, vectors)


def _of_hessian(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda point: jnp.diagonal(jax.hessian(loss)(point))


def _by_forward_mode(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def along(point: Any, unit: Any) -> Any:
        return jax.jvp(lambda at: jax.jvp(loss, (at,), (unit,))[1], (point,), (unit,))[1]

    return lambda point: jax.vmap(lambda unit: along(point, unit))(jnp.eye(len(point), dtype=point.dtype))


def _by_taylor_mode(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def along(point: Any, unit: Any) -> Any:
        _, (_, second) = jet(loss, (point,), ((unit, jnp.zeros_like(unit)),))
        return second

    return lambda point: jax.vmap(lambda unit: along(point, unit))(jnp.eye(len(point), dtype=point.dtype))


SECOND = {"hessian": _of_hessian, "forward": _by_forward_mode, "taylor": _by_taylor_mode}


def _products(loss: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def of_one(point: Any, vectors: Any) -> Any:
        return jax.vmap(lambda v: jax.jvp(jax.grad(loss), (point,), (v,))[1], in_axes=1, out_axes=1)(vectors)

    return of_one


def _called(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    differentiated: Callable[..., Callable[..., Any]],
    jit: bool,
    *further: Tensor,
) -> Tensor:
    """The derivative of each sample's loss in its point, in these vectors where there are any."""
    leaves, structure = tree_flatten(samples)
    examples = Traced(points[0], *(leaf[0] for leaf in leaves))
    with exactly():
        function = _mapped(sample_loss, examples, structure, differentiated, jit)
        arguments = [to_jax(tensor) for tensor in (*leaves, points, *further)]
        return to_torch(function(arguments[: len(leaves)], *arguments[len(leaves) :]), points)


@lru_cache(maxsize=1)
def _mapped(
    sample_loss: SampleLoss,
    examples: Traced,
    structure: Any,
    differentiated: Callable[..., Callable[..., Any]],
    jit: bool,
) -> Callable[..., Any]:
    """The function of samples, points and vectors, all with N first."""
    loss = translated(
        lambda point, *leaves: sample_loss(point, tree_unflatten(list(leaves), structure)), *examples.tensors
    )

    def of_one(sample: Any, point: Any, *further: Any) -> Any:
        return differentiated(lambda at: loss(at, *sample))(point, *further)

    function = jax.vmap(of_one)
    return jax.jit(function) if jit else function
