"""curvlinops' Hessian as an operator that is damped and counts its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curvlinops import HessianLinearOperator
from torch import Tensor, nn

from methods.peers.curvlinops_operators import operator


class DampedHessian(HessianLinearOperator):
    """The operator H + damping I."""

    damping = 0.0
    products = 0  # so far

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:
        self.products += M[0].shape[-1]
        return [product + self.damping * part for product, part in zip(super()._matmat(M), M, strict=True)]


def damped_hessian(
    model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any, damping: float = 0.0
) -> DampedHessian:
    """That operator for one batch. Raises NotImplementedError for a loss that is no module."""
    made = operator(DampedHessian, model, criterion, inputs, targets)
    made.damping = damping
    return made
