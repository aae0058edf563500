"""Hutchinson's estimator of each sample's own trace, with its standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from methods.estimates import Estimate


def trace(
    sample_loss: Callable[[Tensor, Any], Tensor],
    points: Tensor,
    samples: Any,
    probes: int = 16,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Estimate:
    """Estimate the traces (N,) of the samples' Hessians by the mean of v . H v, over vectors v of random signs.

    Each sample has `probes` vectors of its own. The products are forward over reverse, for `chunk_size` samples at once
    (None: all). Raises ValueError for fewer than two probes, which give no standard error.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", 1990; of
    the Laplacian of a network: Hu, Shi, Karniadakis, Kawaguchi, "Hutchinson trace estimation for high-dimensional and
    high-order physics-informed neural networks", 2024.
    """
    if not (isinstance(probes, int) and probes >= 2):
        raise ValueError(f"probes must be a whole number of at least 2; found {probes}")
    generator = torch.Generator(points.device).manual_seed(seed)
    drawn = torch.randint(0, 2, (len(points), probes, points.shape[1]), generator=generator, device=points.device)
    signs = (2 * drawn - 1).to(points.dtype)

    def of_one(point: Tensor, sample: Any, vectors: Tensor) -> Tensor:
        def product(v: Tensor) -> Tensor:
            return jvp(lambda at: grad(sample_loss)(at, sample), (point,), (v,))[1]

        return (vectors * vmap(product)(vectors)).sum(1)

    found = vmap(of_one, chunk_size=chunk_size)(points, samples, signs)  # (N, probes)
    return Estimate(found.mean(1), found.std(1) / probes**0.5, probes)
