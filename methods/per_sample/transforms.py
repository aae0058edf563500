"""Each sample's own Hessian by transforms of torch.func under vmap, which is what torch's own documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

SampleLoss = Callable[[Tensor, Any], Tensor]

COMPOSITIONS: dict[str, Callable[[SampleLoss], Callable[..., Tensor]]] = {
    "jacfwd_grad": lambda loss: jacfwd(grad(loss)),
    "jacrev_grad": lambda loss: jacrev(grad(loss)),
    "hessian": torch.func.hessian,  # jacfwd(jacrev)
}


def hessian(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    composition: str = "jacfwd_grad",
    chunk_size: int | None = None,
) -> Tensor:
    """Each sample's Hessian (N, D, D), all D rows of `chunk_size` samples at once (None: of all).

    `composition` is jacfwd_grad, jacrev_grad, or hessian. hessian is torch.func.hessian, whose inner jacrev is wrong
    without notice under an affine LayerNorm (torch 2.13). Raises ValueError for another one, or a `chunk_size` that is
    no positive number.
    """
    return vmap(_hessian(sample_loss, composition), chunk_size=_chunk(chunk_size))(points, samples)


def diagonal(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    composition: str = "jacfwd_grad",
    chunk_size: int | None = None,
) -> Tensor:
    """The diagonals (N, D) of the Hessians, which are formed for `chunk_size` samples at once; errors as `hessian`."""
    of_one = _hessian(sample_loss, composition)
    rows = vmap(lambda point, sample: of_one(point, sample).diagonal(), chunk_size=_chunk(chunk_size))
    return rows(points, samples)


def trace(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    composition: str = "jacfwd_grad",
    chunk_size: int | None = None,
) -> Tensor:
    """The traces (N,) of the Hessians, which are formed for `chunk_size` samples at once; errors as `hessian`."""
    return diagonal(sample_loss, points, samples, composition, chunk_size).sum(1)


def hvp(
    sample_loss: SampleLoss,
    points: Tensor,
    samples: Any,
    vectors: Tensor,
    composition: str = "jacfwd_grad",
    chunk_size: int | None = None,
) -> Tensor:
    """Each sample's Hessian times its vectors ((N, D, m) -> (N, D, m)), without forming it; errors as `hessian`.

    The products are forward over reverse, or reverse over reverse for jacrev_grad.
    """
    _hessian(sample_loss, composition)
    inner = jacrev(sample_loss) if composition == "hessian" else grad(sample_loss)

    def of_one(point: Tensor, sample: Any, own: Tensor) -> Tensor:
        def slope(at: Tensor) -> Tensor:
            return inner(at, sample)

        if composition == "jacrev_grad":
            pullback = vjp(slope, point)[1]
            return vmap(lambda v: pullback(v)[0], in_dims=1, out_dims=1)(own)
        return vmap(lambda v: jvp(slope, (point,), (v,))[1], in_dims=1, out_dims=1)(own)

    return vmap(of_one, chunk_size=_chunk(chunk_size))(points, samples, vectors)


def _hessian(sample_loss: SampleLoss, composition: str) -> Callable[..., Tensor]:
    if composition not in COMPOSITIONS:
        raise ValueError(f"composition must be one of {', '.join(COMPOSITIONS)}; found {composition}")
    return COMPOSITIONS[composition](sample_loss)


def _chunk(chunk_size: int | None) -> int | None:
    if chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= 1):
        return chunk_size
    raise ValueError(f"chunk_size must be a positive number of samples, or null for all; found {chunk_size}")
