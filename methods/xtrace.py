"""XTrace: the trace of a Hessian, where every probe tests the basis that all the others have found."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods import probes
from methods.estimates import Estimate
from methods.products import Products

DEPENDENT = 2**0.5  # times the standard error of independent samples


def trace(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    products: int = 60,
    seed: int = 0,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
) -> Estimate:
    """Estimate the trace () of the Hessian H of `loss` at `theta` (P,) from `products` Hessian-vector products.

    Half of them gives Y = H W for m random vectors W of length sqrt(P), half H Q for an orthonormal basis Q of Y. For
    each i, Q_i is the basis of Y without its column i, and u_i the part of w_i that is orthogonal to Q_i. Then

        t_i = tr(Q_i^T H Q_i) + (P - m + 1) u_i^T H u_i / |u_i|^2

    has the mean tr(H). The estimate is the mean of the t_i. `hvp` and `chunk_size` are as in `methods.products`.

    The t_i are not independent: each probe is also in the bases of all others. Where only pairs of probes interact, the
    variance of their mean is at most twice that of m independent ones (by Cauchy and Schwarz, for the covariance of t_i
    and t_j), and in networks it is 1.2 to 2 times that. So the root of 2 times the paper's error estimate is stated,
    and what rounding adds.

    Raises ValueError for fewer than 4 products, which give no standard error.

    Epperly, Tropp, Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J. Matrix
    Anal. Appl. 45 (2024), section 2 with the normalisation of section 2.3.
    """
    if not (isinstance(products, int) and products >= 4):
        raise ValueError(f"products must be a whole number of at least 4, two for each half; found {products}")
    times, params = Products(loss, theta, hvp, chunk_size), theta.numel()
    count = min(products // 2, params)
    vectors = probes.on_sphere(theta, count, probes.generator(theta, seed))  # (P, m)
    images = times(vectors)
    basis, triangle = torch.linalg.qr(images)
    images_of_basis = times(basis)
    inner = basis.T @ images_of_basis  # (m, m)
    noise = probes.noise(times, images_of_basis.norm())
    if count == params:  # the basis spans the whole space
        return Estimate(inner.trace(), noise, count, times.count)
    left_out = _directions_left_out(triangle)  # columns s_i (m,): Q s_i is what Q has and Q_i lacks
    kept = basis.T @ vectors
    kept = kept - left_out * (left_out * kept).sum(0)
    rest, images_of_rest = vectors - basis @ kept, images - images_of_basis @ kept  # u_i and H u_i
    quotients = (rest * images_of_rest).sum(0) / rest.square().sum(0)
    samples = inner.trace() - (left_out * (inner @ left_out)).sum(0) + (params - count + 1) * quotients
    error = torch.hypot(DEPENDENT * probes.standard_error(samples), noise)
    return Estimate(samples.mean(), error, count, times.count)


def _directions_left_out(triangle: Tensor) -> Tensor:
    """Unit vectors s_i (m, m) that are orthogonal to all columns of an upper triangular R (m, m) but the i-th.

    They are the normalised columns of R^-T. A matrix of lower rank than m gives zeros on R's diagonal, in place of
    which the rounding of R is taken.
    """
    triangle = triangle.clone()
    diagonal = triangle.diagonal()
    rounding = torch.finfo(triangle.dtype).eps * diagonal.abs().max()
    least = torch.where(rounding > 0, rounding, torch.ones_like(rounding))
    diagonal.copy_(torch.where(diagonal.abs() < least, least, diagonal))
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = torch.linalg.solve_triangular(triangle.T, identity, upper=False)
    return inverse / inverse.norm(dim=0)
