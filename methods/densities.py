"""A spectral density as the mean of several runs of Lanczos quadrature."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.dense import POWERS
from methods.estimates import Spectrum

FEWEST = 8  # runs
DOUBLED = [2 * power for power in POWERS]


def mean_spectrum(nodes: Tensor, weights: Tensor, params: int, products: int) -> Spectrum:
    """The mean of the densities of r runs, with the standard errors of its moments.

    `nodes` (r, m) and `weights` (r, m), of sum 1 in each run, are those of independent random vectors; a weight of 0
    fills up a run with fewer nodes. The standard errors are those of `methods.lanczos_quadrature`, for vectors that are
    uniform on the sphere. Those of random signs have a variance that is at most about the same.
    """
    flat, order = nodes.flatten().sort()
    shares = weights.flatten()[order] / len(nodes)
    moments, doubled = (torch.stack([(shares * flat**p).sum() for p in powers]) for powers in (POWERS, DOUBLED))
    variances = 2 * (doubled - moments.square()).clamp(min=0) / (params + 2) / len(nodes)
    return Spectrum(flat, shares, moments, variances.sqrt(), products)


def runs_and_steps(products: int, params: int, steps: int) -> tuple[int, int]:
    """How many runs, and of how many steps each, `steps` or P at most, a number of products allows.

    Raises ValueError for less than five products for each of eight runs, which do not give the moments up to the
    eighth.
    """
    if not (isinstance(products, int) and products >= 5 * FEWEST):
        raise ValueError(f"products must be a whole number of at least {5 * FEWEST}; found {products}")
    runs = max(FEWEST, products // steps)
    return runs, min(params, steps, products // runs)
