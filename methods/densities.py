"""A spectral density as the mean of several runs of Lanczos quadrature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.estimates import Spectrum

POWERS = 4
FEWEST = 8  # runs, so that their spread is known


def mean_spectrum(nodes: Tensor, weights: Tensor, products: int) -> Spectrum:
    """The mean of the densities of independent runs, whose moments have the standard errors of that mean.

    `nodes` (r, m) and `weights` (r, m), of sum 1 in each run, are those of r runs; a weight of 0 fills up a run
    with fewer nodes.
    """
    runs = len(nodes)
    powers = torch.stack([nodes**power for power in range(1, POWERS + 1)], dim=-1)  # (r, m, 4)
    moments = (weights[..., None] * powers).sum(1)
    flat, order = nodes.flatten().sort()
    errors = moments.std(0) / math.sqrt(runs)
    return Spectrum(flat, weights.flatten()[order] / runs, moments.mean(0), errors, products)


def runs_and_steps(products: int, params: int, steps: int) -> tuple[int, int]:
    """How many runs, and of how many steps each, `steps` or P at most, a number of products allows.

    Raises ValueError for less than two products for each of eight runs.
    """
    if not (isinstance(products, int) and products >= 2 * FEWEST):
        raise ValueError(f"products must be a whole number of at least {2 * FEWEST}; found {products}")
    runs = max(FEWEST, products // steps)
    return runs, min(params, steps, products // runs)
