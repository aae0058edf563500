"""Each sample's own diagonal and Laplacian by forward mode twice, along each coordinate, with no Hessian formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

SampleLoss = Callable[[Tensor, Any], Tensor]


def diagonal(sample_loss: SampleLoss, points: Tensor, samples: Any, chunk_size: int | None = None) -> Tensor:
    """The diagonals (N, D) of the samples' Hessians: second derivatives along the coordinates, D at once.

    Each is a jvp of a jvp. `chunk_size` samples are computed at once (None: all). Raises ValueError for a `chunk_size`
    that is no positive number.
    """
    if not (chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= 1)):
        raise ValueError(f"chunk_size must be a positive number of samples, or null for all; found {chunk_size}")
    units = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)

    def of_one(point: Tensor, sample: Any) -> Tensor:
        def second(unit: Tensor) -> Tensor:
            def slope(at: Tensor) -> Tensor:
                return jvp(lambda x: sample_loss(x, sample), (at,), (unit,))[1]

            return jvp(slope, (point,), (unit,))[1]

        return vmap(second)(units)

    return vmap(of_one, chunk_size=chunk_size)(points, samples)


def trace(sample_loss: SampleLoss, points: Tensor, samples: Any, chunk_size: int | None = None) -> Tensor:
    """The traces (N,) of the samples' Hessians, which are their Laplacians; otherwise as `diagonal`."""
    return diagonal(sample_loss, points, samples, chunk_size).sum(1)
