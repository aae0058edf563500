"""A function of points in space, and the residuals of a differential equation; draws from one seed, in float64.

`derivatives` says how a model differentiates within `forward`: "func" by the transforms of torch.func, which nest in
those of the methods, "autograd" by torch.autograd.grad with create_graph=True, as most code in use does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.networks import draw_parameters, require_one_of, require_positive
from harness.problems.problem import Problem

DERIVATIVES = ("func", "autograd")


def field(*, seed: int = 0, dimensions: int = 3, width: int = 16, depth: int = 1, batch: int = 16) -> Problem:
    """The mean over points x (N, D) of a perceptron u(x) with tanh, for derivatives in the points (`wrt=inputs`).

    For `depth=1` those of second order have the closed form `field_hessian`.
    """
    require_positive("field", dimensions=dimensions, width=width, depth=depth, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    model = draw_parameters(perceptron(dimensions, width, depth), generator)
    points = torch.randn(batch, dimensions, generator=generator, dtype=torch.float64)
    return from_network(model, mean, points, input_hessian=field_hessian if depth == 1 else None)


def pinn(
    *, seed: int = 0, dimensions: int = 2, width: int = 8, depth: int = 2, batch: int = 32, derivatives: str = "func"
) -> Problem:
    """A physics-informed network for -Laplace u = f on the unit box in 1, 2 or 3 dimensions, with u = 0 on its border.

    The loss is the mean squared error of -Laplace u in `batch` points of the box, and of u in as many of its border; f
    is that of u = prod_i sin(pi x_i). The loss thus holds second derivatives of u, a perceptron with tanh.

    Raissi, Perdikaris and Karniadakis, "Physics-informed neural networks", 2019.
    """
    require_positive("pinn", dimensions=dimensions, width=width, depth=depth, batch=batch)
    if dimensions > 3:
        raise ProblemError(f"pinn: dimensions={dimensions} must be 1, 2 or 3")
    require_one_of("pinn", derivatives=(derivatives, DERIVATIVES))
    generator = torch.Generator().manual_seed(seed)
    model = draw_parameters(_Residual(perceptron(dimensions, width, depth), derivatives), generator)
    inner, border = torch.rand(2, batch, dimensions, generator=generator, dtype=torch.float64)
    faces = torch.randint(2 * dimensions, (batch,), generator=generator)
    border[torch.arange(batch), faces // 2] = (faces % 2).to(border)
    source = dimensions * math.pi**2 * (math.pi * inner).sin().prod(1)
    targets = torch.stack([source, torch.zeros_like(source)], dim=1)
    return from_network(model, SquaredError(), torch.stack([inner, border], dim=1), targets)


class SquaredError(nn.MSELoss):
    """The mean squared error by its formula, since torch has no jvp of the gradient of mse_loss (issue 112013)."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N, ...), (N, ...) -> ()."""
        return (outputs - targets).square().mean()


def mean(outputs: Tensor, _targets: None = None) -> Tensor:
    """The mean () of outputs (N, ...)."""
    return outputs.mean()


def perceptron(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Linear layers with tanh between them: (N, inputs) -> (N, 1), with `depth` hidden layers of `width`."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers += [nn.Linear(width if layer else inputs, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


class _Residual(nn.Module):
    """-Laplace u in points of the box, and u in points of its border."""

    def __init__(self, network: nn.Module, derivatives: str) -> None:
        super().__init__()
        self.network, self.derivatives = network, derivatives

    def forward(self, points: Tensor) -> Tensor:
        """(N, 2, D), of which each first row is within the box, and the second on its border -> (N, 2)."""
        inner, border = points.unbind(1)
        laplacian = _forward_laplacian if self.derivatives == "func" else _autograd_laplacian
        return torch.cat([-laplacian(self.network, inner), self.network(border)], dim=1)


def _forward_laplacian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Laplacian (N, 1) of a function at x (N, D): for each axis a derivative of the derivative along it."""

    def along(axis: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.func.jvp(function, (x,), (axis,))[1]

    axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    several = [axis.expand_as(x) for axis in axes]
    return torch.stack([torch.func.jvp(along(axis), (x,), (axis,))[1] for axis in several]).sum(0)


def _autograd_laplacian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Laplacian (N, 1) of a function at x (N, D), by a gradient in x and one of each of its columns."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        columns = [
            torch.autograd.grad(column.sum(), x, create_graph=True)[0][:, place]
            for place, column in enumerate(slope.unbind(1))
        ]
    return torch.stack(columns).sum(0).unsqueeze(1)


def field_hessian(model: nn.Sequential, points: Tensor) -> Tensor:
    """The Hessian (N, D, D) of `field` with one hidden layer, w . tanh(W x + b), in its points (N, D).

    It is W^T diag(w tanh''(W x + b)) W, with tanh'' = -2 tanh (1 - tanh^2).
    """
    first, last = model[0], model[2]
    inner, outer = first.get_parameter("weight"), last.get_parameter("weight")
    value = torch.tanh(first(points))  # (N, width)
    curvature = outer[0] * -2 * value * (1 - value**2)
    return torch.einsum("nh,hi,hj->nij", curvature, inner, inner).detach()
