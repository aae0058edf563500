"""laplace-torch (Daxberger et al. 2021): Kronecker factors and the diagonal of the GGN of a fit."""

from __future__ import annotations

from laplace.curvature.curvlinops import CurvlinopsGGN
from torch import Tensor, nn

from methods.estimates import Approximation
from methods.peers.laplace_fit import fitted

KINDS = ("kron", "diag")


def ggn(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, kind: str = "kron") -> Approximation:
    """An approximation (P, P) of the GGN of a mean cross-entropy or mean squared error.

    `kind` is "kron" (a Kronecker product for each weight and a factor for each bias, by curvlinops' KFAC) or "diag".
    Raises ValueError for another `kind`, and NotImplementedError as `methods.peers.laplace` does, and for parameters of
    other layers than linear ones and convolutions with kind="kron".
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; found {kind}")
    found, scale = fitted(model, criterion, inputs, targets, kind, CurvlinopsGGN)
    matrix = found.to_matrix() if kind == "kron" else found.diag()
    return Approximation(matrix.detach().mul_(scale))


def hessian(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, kind: str = "kron"
) -> Approximation:
    """The same matrix, in place of the Hessian."""
    return ggn(model, criterion, inputs, targets, kind)
