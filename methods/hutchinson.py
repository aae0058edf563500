"""Hutchinson's estimators of the Hessian's diagonal and of its trace, with their standard errors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods import probes as random_vectors
from methods.chunks import slices
from methods.estimates import Estimate
from methods.products import Products

BLOCK = 64  # probes that are in memory at once


def diagonal(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    probes: int = 64,
    seed: int = 0,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Estimate:
    """Estimate the diagonal of the Hessian of `loss` at `theta` ((P,) -> (P,)) by the mean of v * (H v).

    The v are `probes` vectors of random signs. For one v, the variance of entry i is the sum over j != i of H_ij^2. The
    products are those that `hvp` names (`methods.products`), `chunk_size` at once as in `methods.chunks`. The same seed
    gives the same estimate, for the same `chunk_size`.

    Raises ValueError for fewer than two probes, which give no standard error, and for another `chunk_size`.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", 1990;
    Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007.
    """
    _require_two(probes)
    times = Products(loss, theta, hvp, chunk_size=None)
    generator = random_vectors.generator(theta, seed)
    mean, squares, done = torch.zeros_like(theta), torch.zeros_like(theta), 0
    for rows in slices(probes, chunk_size, lambda vectors: times(vectors.T).T, theta, memory_budget_mb):
        count = rows.stop - max(rows.start, done)  # the last slice may overlap the one before
        vectors = random_vectors.signs(theta, count, generator)
        samples = (vectors * times(vectors)).T
        # A chunk updates the mean and the sum of squares as in Chan, Golub and LeVeque (1983).
        chunk_mean = samples.mean(0)
        shift = chunk_mean - mean
        squares += (samples - chunk_mean).square().sum(0) + shift.square() * done * count / (done + count)
        mean += shift * count / (done + count)
        done += count
    return Estimate(mean, (squares / (probes - 1) / probes).sqrt(), probes, times.count)


def trace(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    probes: int = 64,
    seed: int = 0,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
) -> Estimate:
    """Estimate the trace () of the Hessian H of `loss` at `theta` (P,) by the mean of v^T H v.

    The v are `probes` vectors of random signs. For one v, the variance is twice the sum of H_ij^2 over i != j. The
    standard error holds what rounding adds. Where one eigenvalue dominates, the v^T H v are as skewed as the square of
    a normal number, and the intervals of few probes hold the trace less often than they should. All else is as in
    `diagonal`.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", 1990.
    """
    _require_two(probes)
    times = Products(loss, theta, hvp, chunk_size, memory_budget_mb)
    generator = random_vectors.generator(theta, seed)
    samples, squares = [], theta.new_zeros(())
    for start in range(0, probes, BLOCK):
        vectors = random_vectors.signs(theta, min(BLOCK, probes - start), generator)
        images = times(vectors)
        samples.append((vectors * images).sum(0))
        squares += images.square().sum()
    of_all = torch.cat(samples)
    noise = random_vectors.noise(times, (squares / probes).sqrt())
    return Estimate(of_all.mean(), torch.hypot(random_vectors.standard_error(of_all), noise), probes, times.count)


def _require_two(probes: int) -> None:
    if not (isinstance(probes, int) and probes >= 2):
        raise ValueError(f"probes must be a whole number of at least 2; found {probes}")
