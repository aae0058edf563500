"""The spectral density of a Hessian by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods import probes as random_vectors
from methods.dense import finite
from methods.densities import mean_spectrum
from methods.estimates import Spectrum
from methods.products import Products


def spectrum(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    probes: int = 16,
    steps: int = 30,
    seed: int = 0,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
) -> Spectrum:
    """Estimate the density of the eigenvalues of the Hessian of `loss` at `theta` (P,).

    For each of `probes` random unit vectors v, `steps` Lanczos steps give a tridiagonal matrix T. The eigenvalues of T,
    weighted by the squares of the first entries of its eigenvectors, are a Gauss quadrature: exact, for this vector,
    for polynomials up to degree 2 steps - 1. The densities of all vectors are averaged. It takes probes * steps
    products, and as many vectors (P,) of memory, since each new vector is made orthogonal to all before it (twice,
    which is enough). `hvp` and `chunk_size` are as in `methods.products`.

    Over the unit sphere, the variance of v^T H^p v is 2 (m_2p - m_p^2) / (P + 2), with the moments m of the spectrum.
    The standard errors are those of this formula with the estimated moments. They are steadier than the spread over few
    vectors, which is too small where none of these has its share of a large eigenvalue.

    Raises ValueError for no probes, and for fewer than five steps, which do not give the moments up to the eighth.

    Golub and Meurant, "Matrices, moments and quadrature", 1994; Lin, Saad, Yang, "Approximating spectral densities of
    large matrices", SIAM Review 58 (2016); Ubaru, Chen, Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature", SIAM J. Matrix Anal. Appl. 38 (2017).
    """
    for name, value, least in (("probes", probes, 1), ("steps", steps, 5)):
        if not (isinstance(value, int) and value >= least):
            raise ValueError(f"{name} must be a whole number of at least {least}; found {value}")
    times = Products(loss, theta, hvp, chunk_size)
    params = theta.numel()
    start = random_vectors.on_sphere(theta, probes, random_vectors.generator(theta, seed)) / params**0.5
    nodes, vectors = torch.linalg.eigh(finite(_tridiagonal(times, start, steps)))
    return mean_spectrum(nodes, vectors[:, 0].square(), params, times.count)


def _tridiagonal(times: Products, vectors: Tensor, steps: int) -> Tensor:
    """The matrices T (k, m, m) of Lanczos from unit vectors (P, k), all at once; m is `steps`, or P if that is less.

    Where the vectors span an invariant space, T falls apart there; what follows has no weight.
    """
    params, count = vectors.shape
    steps = min(steps, params)
    basis = vectors.new_zeros(steps, params, count)
    matrix = vectors.new_zeros(count, steps, steps)
    for step in range(steps):
        basis[step] = vectors
        images = times(vectors)
        matrix[:, step, step] = (vectors * images).sum(0)
        sizes = images.norm(dim=0)
        for _ in range(2):
            done = basis[: step + 1]
            images = images - torch.einsum("jpk,jk->pk", done, torch.einsum("jpk,pk->jk", done, images))
        if step + 1 < steps:
            lengths = images.norm(dim=0)
            goes_on = lengths > 10 * torch.finfo(vectors.dtype).eps * sizes
            lengths = lengths * goes_on
            matrix[:, step, step + 1] = matrix[:, step + 1, step] = lengths
            vectors = torch.where(goes_on, images / torch.where(goes_on, lengths, 1.0), 0.0)
    return matrix
