"""curvlinops' Lanczos quadrature of the spectral density (Papyan 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from torch import Tensor, nn

from methods.densities import mean_spectrum, runs_and_steps
from methods.estimates import Spectrum
from methods.peers.curvlinops_hessian import damped_hessian

STEPS = 32  # of Lanczos's method in each run


def spectrum(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    products: int = 256,
    seed: int = 0,
) -> Spectrum:
    """The spectral density of the Hessian by `fast_lanczos`, on `products` in all.

    Its runs have 32 steps each, or fewer so that there are eight. It does not orthogonalise again, so that a run may
    count an eigenvalue twice, and fails where a Krylov space has fewer dimensions than steps. The moments' standard
    errors are those of the mean over runs.

    Raises ValueError for fewer than 16 products; NotImplementedError for a loss that is no module.
    """
    operator = damped_hessian(model, criterion, inputs, targets)
    runs, steps = runs_and_steps(products, operator.shape[0], STEPS)
    like = next(model.parameters())
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(seed)
        found = [fast_lanczos(operator, steps) for _ in range(runs)]
    nodes = torch.stack([values for values, _ in found])
    weights = torch.stack([vectors[0].square() for _, vectors in found])
    return mean_spectrum(nodes, weights, operator.products)
