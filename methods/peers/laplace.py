"""laplace-torch (Daxberger et al. 2021): the full Hessian of a fit, through its curvlinops backend."""

from __future__ import annotations

from laplace.curvature.curvlinops import CurvlinopsHessian
from torch import Tensor, nn

from methods.peers.laplace_fit import fitted


def hessian(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Hessian (P, P) of a mean cross-entropy or mean squared error: the sum over the data that `fit` makes, rescaled.

    The backend is CurvlinopsHessian, since the default one gives the GGN. It is wrong under LayerNorm, as curvlinops
    is. Raises NotImplementedError for another loss, and for class weights, smoothing or probabilities as targets.
    """
    matrix, scale = fitted(model, criterion, inputs, targets, "full", CurvlinopsHessian)
    return matrix.detach().mul_(scale)
