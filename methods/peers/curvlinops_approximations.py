"""curvlinops (Dangel et al. 2025): approximations of the GGN as linear operators, multiplied with the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import curvlinops
from torch import Tensor, nn

from methods.estimates import Approximation
from methods.peers.curvlinops_operators import operator, times_identity

JOINT = {"fisher_type": "type-2", "separate_weight_and_bias": False}
# The operators of each approximation, the first of which that a release has is taken, and their own options.
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "kfac": {"KFACLinearOperator": JOINT},
    "kfac_separate": {"KFACLinearOperator": {"fisher_type": "type-2"}},
    "kfac_reduce": {"KFACLinearOperator": JOINT | {"kfac_approx": "reduce"}},
    "ekfac": {"EKFACLinearOperator": JOINT},
    "kfoc": {"KFOCLinearOperator": {"separate_weight_and_bias": False}},
    "empirical_fisher": {"EFLinearOperator": {}},
    "monte_carlo_fisher": {"FisherMCLinearOperator": {}, "GGNLinearOperator": {"mc_samples": 1}},
}


def hessian(
    model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, kind: str = "kfac"
) -> Approximation:
    """An approximation (P, P) of the GGN in place of the Hessian.

    `kind` is one of

    - kfac: a Kronecker product for the parameters of each linear layer or convolution, from the loss's exact curvature
      in the outputs (Martens and Grosse 2015, Grosse and Martens 2016);
    - kfac_separate: one for each weight, and a factor for each bias, as the library does it unless asked otherwise;
    - kfac_reduce: the same as kfac but where weights are shared, as in convolutions (Eschenhagen et al. 2023);
    - ekfac: kfac with corrected eigenvalues (George et al. 2018);
    - kfoc: the nearest Kronecker product (Schnaus et al. 2021), which release 3.0.1 does not have;
    - empirical_fisher: of a mean of squared errors it is C times that of `methods.approximations.empirical_fisher`,
      for C outputs;
    - monte_carlo_fisher: with one draw for each sample.

    Raises ValueError for another `kind`; NotImplementedError where the release has no such operator, for a loss that is
    no module, and for parameters of other layers.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; found {kind}")
    for name, options in KINDS[kind].items():
        if hasattr(curvlinops, name):
            found = operator(getattr(curvlinops, name), model, criterion, inputs, targets, **options)
            return Approximation(times_identity(found, model))
    raise NotImplementedError(f"this release of curvlinops has no {' or '.join(KINDS[kind])}, which kind={kind} needs")


def ggn(
    model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Tensor, kind: str = "kfac"
) -> Approximation:
    """The same matrix, in place of the GGN."""
    return hessian(model, criterion, inputs, targets, kind)
