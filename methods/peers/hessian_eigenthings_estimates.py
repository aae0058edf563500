"""hessian-eigenthings (Golmant et al. 2018): its Lanczos method, Hutch++ and stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hessian_eigenthings import HessianOperator, lanczos, spectral_density
from hessian_eigenthings import trace as estimated_trace
from hessian_eigenthings.loss_fns.standard import supervised_loss
from torch import Tensor, nn

from methods.densities import mean_spectrum, runs_and_steps
from methods.estimates import Bounded, Estimate, Spectrum
from methods.ritz import bounded, check_budget, check_count

Criterion = Callable[..., Tensor]

STEPS = 32  # of Lanczos's method in each run of the quadrature


def eigenvalues(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    k: int,
    products: int = 128,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian, then the lowest one.

    They are those that `lanczos` finds in `products` steps (at most P), orthogonalised in full and without a restart:
    its Ritz values at both ends of one Krylov space, with the residuals that it states.

    Raises ValueError for k above P or above `products`; ArithmeticError where the Krylov space has fewer dimensions.
    """
    operator = HessianOperator(model, [(inputs, targets)], supervised_loss(criterion))
    check_count(k, operator.size)
    check_budget(products, k, 0.0)
    steps = min(products, operator.size)
    found = lanczos(operator, k=steps, max_iter=steps, reorthogonalize=True, seed=seed)
    if len(found.eigenvalues) < k:
        raise ArithmeticError(
            f"the Krylov space of a random vector has {len(found.eigenvalues)} dimensions, and k={k} eigenvalues were "
            "asked for; set k lower, or take an exact method"
        )
    return bounded(found.eigenvalues, found.residuals, k, operator.size, found.iterations)


def trace(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, products: int = 128, seed: int = 0
) -> Estimate:
    """The trace () of the Hessian by its Hutch++, with the standard error that it states.

    That one is of the last third of `products`. Raises ValueError for fewer than six products, which give none.
    """
    check_budget(products, 6, 0.0)
    operator = HessianOperator(model, [(inputs, targets)], supervised_loss(criterion))
    found = estimated_trace(operator, num_matvecs=products, method="hutch++", seed=seed)
    like = next(model.parameters())
    value, error = (torch.tensor(number, dtype=torch.float64).to(like) for number in (found.estimate, found.stderr))
    return Estimate(value, error, len(found.samples), 3 * len(found.samples))


def spectrum(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, products: int = 128, seed: int = 0
) -> Spectrum:
    """The spectral density of the Hessian by `spectral_density`, on `products` in all.

    Its runs have 32 steps each, or fewer so that there are eight, and orthogonalise in full. The moments' standard
    errors are those of the mean over runs. Raises ValueError for fewer than 16 products.
    """
    operator = HessianOperator(model, [(inputs, targets)], supervised_loss(criterion))
    runs, steps = runs_and_steps(products, operator.size, STEPS)
    found = spectral_density(operator, num_runs=runs, lanczos_steps=steps, num_grid_points=2, seed=seed)
    # A run that ended early is filled up with weights of 0 at nodes that are NaN.
    return mean_spectrum(found.raw_eigenvalues.nan_to_num(0.0), found.raw_weights, runs * steps)
