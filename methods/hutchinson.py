"""Hutchinson's estimator of the Hessian's diagonal, with its standard error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

from methods.chunks import batched, slices
from methods.estimates import Estimate


def diagonal(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    probes: int = 64,
    seed: int = 0,
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Estimate:
    """Estimate the diagonal of the Hessian of `loss` at `theta` ((P,) -> (P,)) by the mean of v * (H v).

    The v are `probes` vectors of random signs. For one v, the variance of entry i is the sum over j != i of H_ij^2. The
    products are reverse over reverse, `chunk_size` at once as in `methods.chunks`. The same seed gives the same
    estimate, for the same `chunk_size`.

    Raises ValueError for fewer than two probes, which give no standard error, and for another `chunk_size`.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", 1990;
    Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007.
    """
    if not (isinstance(probes, int) and probes >= 2):
        raise ValueError(f"probes must be a whole number of at least 2; found {probes}")
    pullback = vjp(grad(loss), theta)[1]
    product = batched(lambda v: pullback(v)[0])
    generator = torch.Generator(theta.device).manual_seed(seed)
    mean, squares, done = torch.zeros_like(theta), torch.zeros_like(theta), 0
    for rows in slices(probes, chunk_size, product, theta, memory_budget_mb):
        count = rows.stop - max(rows.start, done)  # the last slice may overlap the one before
        signs = torch.randint(0, 2, (count, theta.numel()), generator=generator, device=theta.device)
        vectors = (2 * signs - 1).to(theta.dtype)
        samples = vectors * product(vectors)
        # A chunk updates the mean and the sum of squares as in Chan, Golub and LeVeque (1983).
        chunk_mean = samples.mean(0)
        shift = chunk_mean - mean
        squares += (samples - chunk_mean).square().sum(0) + shift.square() * done * count / (done + count)
        mean += shift * count / (done + count)
        done += count
    return Estimate(mean, (squares / (probes - 1) / probes).sqrt(), probes)
