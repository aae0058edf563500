"""curvlinops' estimators of the trace: Hutchinson's, Hutch++ and XTrace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from curvlinops import hutchinson_trace, hutchpp_trace, xtrace
from torch import Tensor, nn

from methods.estimates import Estimate
from methods.peers.curvlinops_hessian import damped_hessian
from methods.ritz import check_budget

# Each with the number that its products must be a multiple of.
ESTIMATORS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "hutchinson": (hutchinson_trace, 1),
    "hutch++": (hutchpp_trace, 3),
    "xtrace": (xtrace, 2),
}


def trace(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    estimator: str = "xtrace",
    products: int = 128,
    repeats: int = 8,
    seed: int = 0,
) -> Estimate:
    """The trace () of the Hessian by "hutchinson", "hutch++" or "xtrace".

    The library states no error. The estimator is therefore called `repeats` times, with an equal share of `products`
    each: the value is their mean, with its standard error. One call with all of them would be more accurate for Hutch++
    and XTrace, and say nothing of its error.

    Raises ValueError for another `estimator`, fewer than two `repeats`, and a share that is too small, or is not below
    P; NotImplementedError for a loss that is no module.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}; found {estimator}")
    function, multiple = ESTIMATORS[estimator]
    if not (isinstance(repeats, int) and repeats >= 2):
        raise ValueError(f"repeats must be a whole number of at least 2; found {repeats}")
    check_budget(products, multiple * repeats, 0.0)
    operator = damped_hessian(model, criterion, inputs, targets)
    share = products // repeats // multiple * multiple
    if share >= operator.shape[0]:
        raise ValueError(
            f"products={products} is {share} for each of {repeats} repeats, and curvlinops takes fewer than the "
            f"{operator.shape[0]} parameters: set products lower, or take an exact method"
        )
    like = next(model.parameters())
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(seed)
        values = torch.stack([function(operator, share) for _ in range(repeats)])
    return Estimate(values.mean(), values.std() / math.sqrt(repeats), repeats, operator.products)
