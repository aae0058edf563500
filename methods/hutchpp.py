"""Hutch++: the trace of a Hessian, exactly in the directions of large curvature and by random probes in the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods import probes
from methods.estimates import Estimate
from methods.products import Products


def trace(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    products: int = 60,
    seed: int = 0,
    hvp: str = "reverse_over_reverse",
    chunk_size: int | str | None = 64,
) -> Estimate:
    """Estimate the trace () of the Hessian H of `loss` at `theta` (P,) from `products` Hessian-vector products.

    A third of them finds a basis Q of H S for random signs S, a third gives tr(Q^T H Q), and a third estimates the rest
    by the mean of g^T H g over probes g that are orthogonal to Q. The error is of the order of 1 / products where the
    eigenvalues decay, that of `methods.hutchinson.trace` of 1 / sqrt(products). The standard error is that of the last
    third, which is all that is random once Q is known, and what rounding adds. `hvp` and `chunk_size` are as in
    `methods.products`.

    Raises ValueError for fewer than 6 products, which give no standard error.

    Meyer, Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021, algorithm 1.
    """
    if not (isinstance(products, int) and products >= 6):
        raise ValueError(f"products must be a whole number of at least 6, two for each third; found {products}")
    times, drawn = Products(loss, theta, hvp, chunk_size), probes.generator(theta, seed)
    third = products // 3
    basis = torch.linalg.qr(times(probes.signs(theta, min(third, theta.numel()), drawn))).Q  # (P, third)
    images = times(basis)
    known = (basis * images).sum()
    rest = probes.signs(theta, third, drawn)
    rest = rest - basis @ (basis.T @ rest)
    samples = (rest * times(rest)).sum(0)  # (third,)
    error = torch.hypot(probes.standard_error(samples), probes.noise(times, images.norm()))
    return Estimate(known + samples.mean(), error, third, times.count)
