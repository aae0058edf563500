"""Derivatives of the gradient by finite differences: nothing but backward is asked of the loss.

They are for losses that have no second derivative by autograd, such as those with fused attention, cuDNN's recurrent
layers, or sharded parameters; and they state their own error.

Along a vector v, with the step h, the gradient g gives H v as

    (g(theta + h v) - g(theta - h v)) / (2 h)    two-sided: the error of truncation is of order h^2
    (g(theta + h v) - g(theta)) / h              one-sided: of order h

Rounding of g, relative to eps, adds about eps |g| / h. Let g change by its own size over a distance l. The sum of
truncation and rounding is then least for h of about eps^(1/3) l, or eps^(1/2) l (Nocedal and Wright, "Numerical
Optimization", 2006, section 8.1). l is taken as the root mean square of theta, or 1 at zero, and h such that no entry
moves by more than that (h max|v|).

The same with the step 2 h tells the error: its truncation is 4 or 2 times as large, its rounding half. So the distance
between both is about as large as the error of rounding, 3 or 1 times as large as that of truncation, and half of that
of a kink within h. Three times the distance is stated, and a rounding of eps |g| / h, since the distance may be small
by accident where there are few parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from methods.estimates import Bounded

Loss = Callable[[Tensor], Tensor]

SAFETY = 3.0
EXPONENT = {1: 1 / 2, 2: 1 / 3}  # of eps, in the step


def hvp(loss: Loss, theta: Tensor, vectors: Tensor, sided: int = 2) -> Bounded:
    """Hessian of `loss` at `theta` (P,) times `vectors` ((P, k) -> (P, k)), and the norms (k,) of its errors.

    It takes four gradients for each vector, or two and one more with `sided` = 1.

    Raises ValueError for another `sided`, and for vectors that are not finite.
    """
    gradients = Gradients(loss, theta, sided)
    differences = [gradients.difference(vector) for vector in vectors.unbind(1)]
    value = torch.stack([found.value for found in differences], dim=1)
    return Bounded(value, torch.stack([found.norm() for found in differences]), gradients.count)


def hessian(loss: Loss, theta: Tensor, sided: int = 2) -> Bounded:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), and the error of every entry; as `hvp` with unit vectors."""
    gradients = Gradients(loss, theta, sided)
    columns = [(found.value, found.entries()) for found in _columns(gradients)]
    value, error = (torch.stack(parts, dim=1) for parts in zip(*columns, strict=True))
    return Bounded(value, error, gradients.count)


def diagonal(loss: Loss, theta: Tensor, sided: int = 2) -> Bounded:
    """Diagonal of that Hessian ((P,) -> (P,)), and the error of every entry."""
    gradients = Gradients(loss, theta, sided)
    entries = [(found.value[place], found.entries()[place]) for place, found in enumerate(_columns(gradients))]
    value, error = (torch.stack(parts) for parts in zip(*entries, strict=True))
    return Bounded(value, error, gradients.count)


class Difference(NamedTuple):
    """The derivative of the gradient along a vector, and what is known of its error."""

    value: Tensor  # (P,), with the usual step
    distance: Tensor  # (P,) from the one with twice that step
    rounding: Tensor  # (), the norm of the gradient's rounding over the step

    def norm(self) -> Tensor:
        """The norm () of the error that is stated."""
        return SAFETY * self.distance.norm() + self.rounding

    def entries(self) -> Tensor:
        """The errors (P,) that are stated for the entries.

        An entry's own distance may be small by accident, so that at least the double of the error that is stated on
        average counts.
        """
        return torch.maximum(SAFETY * self.distance.abs(), 2 * self.norm() / len(self.value) ** 0.5)


class Gradients:
    """The gradient of `loss` at points around `theta` (P,), and its differences."""

    def __init__(self, loss: Loss, theta: Tensor, sided: int = 2) -> None:
        if sided not in EXPONENT:
            raise ValueError(f"sided must be 1 or 2; found {sided}")
        self.theta = theta.detach()
        self.count = 0  # gradients so far
        self.largest_rounding = 0.0  # so far, of a derivative along a unit vector
        self._loss, self._sided = loss, sided
        self._here: Tensor | None = None
        self._eps = torch.finfo(theta.dtype).eps
        self._longest = (float(self.theta.square().mean().sqrt()) or 1.0) * self._eps ** EXPONENT[sided]

    def derivative(self, vector: Tensor) -> Tensor:
        """The derivative (P,) of the gradient along `vector` (P,).

        Its error of truncation is about as large as that of rounding, of which the largest one so far is kept.
        """
        step = self._step(vector)
        if not step:
            return torch.zeros_like(vector)
        found, gradient = self._derivative(vector, step)
        rounding = self._eps * gradient.norm() / step / vector.norm()
        self.largest_rounding = max(self.largest_rounding, float(rounding))
        return found

    def difference(self, vector: Tensor) -> Difference:
        """The same with what is known of its error."""
        step = self._step(vector)
        if not step:
            return Difference(torch.zeros_like(vector), torch.zeros_like(vector), vector.new_zeros(()))
        fine, gradient = self._derivative(vector, step)
        coarse, _ = self._derivative(vector, 2 * step)
        return Difference(fine, fine - coarse, self._eps * gradient.norm() / step)

    def _step(self, vector: Tensor) -> float:
        """The step h along a vector; 0 for a vector of zeros."""
        largest = float(vector.abs().max())
        if not math.isfinite(largest):
            raise ValueError("a vector has entries that are not finite")
        return self._longest / largest if largest else 0.0

    def _derivative(self, vector: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """The derivative (P,) along a vector with a step, and the gradient (P,) ahead."""
        ahead = self._at(self.theta + step * vector)
        if self._sided == 2:
            return (ahead - self._at(self.theta - step * vector)) / (2 * step), ahead
        if self._here is None:
            self._here = self._at(self.theta.clone())
        return (ahead - self._here) / step, ahead

    def _at(self, point: Tensor) -> Tensor:
        """The gradient (P,) at a point, which is the caller's to give away."""
        self.count += 1
        point = point.requires_grad_()
        value = self._loss(point)
        if not value.requires_grad:
            return torch.zeros_like(point)
        return torch.autograd.grad(value, point, materialize_grads=True)[0]


def _columns(gradients: Gradients) -> Iterator[Difference]:
    """Each column (P,) of the Hessian."""
    theta = gradients.theta
    for place in range(len(theta)):
        unit = torch.zeros_like(theta)
        unit[place] = 1.0
        yield gradients.difference(unit)
