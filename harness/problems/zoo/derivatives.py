"""Modules that differentiate within their forward pass, and others that methods were seen to stumble over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.problems.fields import SquaredError
from harness.problems.networks import draw_parameters


def _energy(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 3), nn.Tanh(), nn.Linear(3, 1))


class GradientWithin(nn.Module):
    """The gradient of an energy in the module's input, by torch.autograd.grad: forces, residuals of a PINN."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.energy = _energy(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class FuncGradWithin(nn.Module):
    """The same gradient by torch.func: vmap of grad."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.energy = _energy(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return torch.func.vmap(torch.func.grad(lambda row: self.energy(row).sum()))(x)


class FuncJvpWithin(nn.Module):
    """The derivative of an energy along a direction, by torch.func.jvp."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.energy = _energy(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, 1)."""
        return torch.func.jvp(self.energy, (x,), (torch.ones_like(x),))[1]


class FuncHessianWithin(nn.Module):
    """The Laplacian of an energy, from its Hessians by torch.func: vmap of hessian."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.energy = _energy(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, 1)."""
        hessian = torch.func.hessian(lambda row: self.energy(row).sum())
        return torch.func.vmap(hessian)(x).diagonal(dim1=1, dim2=2).sum(1, keepdim=True)


class FuncJacrevWithin(nn.Module):
    """The Jacobian of a map by torch.func: vmap of jacrev."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(features, 3), nn.Tanh(), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, 2 features)."""
        return torch.func.vmap(torch.func.jacrev(self.map))(x).flatten(1)


class ForcesAllowUnused(nn.Module):
    """An energy and its forces, zero where none are found (`allow_unused`), as some potentials take them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.energy = _energy(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, 1 + features)."""
        energy = self.energy(x)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True, allow_unused=True)
        return torch.cat([energy, torch.zeros_like(x) if slope is None else -slope], dim=1)


class InnerStep(nn.Module):
    """A linear layer after one step of gradient descent in its weight within the forward pass, as in meta-learning.

    Finn, Abbeel and Levine, "Model-agnostic meta-learning", 2017.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        with torch.enable_grad():
            inner = (x @ self.weight).tanh().square().sum()
            (slope,) = torch.autograd.grad(inner, self.weight, create_graph=True)
        return x @ (self.weight - 0.1 * slope)


class Hamiltonian(nn.Module):
    """Hamilton's equations from an energy of positions and momenta, which require a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = _energy(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2) -> (N, 2)."""
        (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return torch.stack([slope[:, 1], -slope[:, 0]], dim=1)


def inputs_that_require_grad(*, seed: int = 0, batch: int = 4) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A network whose inputs require a gradient, since it differentiates in them: Greydanus et al. 2019."""
    generator = torch.Generator().manual_seed(seed)
    model = draw_parameters(Hamiltonian(), generator)
    inputs, targets = torch.randn(2, batch, 2, generator=generator, dtype=torch.float64)
    return model, SquaredError(), inputs.requires_grad_(), targets


class ParameterAsInput(nn.Module):
    """A linear layer whose weight another one computes from a parameter, as a hypernetwork does."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(features, 2))
        self.weight_of = nn.Linear(2, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return functional.linear(x, self.weight_of(self.codes))


class ComplexBuffer(nn.Module):
    """A linear layer, and a rotation by phases that are a complex buffer, as rotary embeddings are."""

    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        angles = torch.arange(1.0, features // 2 + 1, dtype=torch.float64)
        self.register_buffer("phases", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features), for an even number of features."""
        pairs = torch.view_as_complex(self.linear(x).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.phases).flatten(-2)


class StopGradient(nn.Module):
    """A linear layer weighted by its own detached outputs, as in self-distillation: the weights count as constant."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        y = self.linear(x)
        return y * y.detach().sigmoid()


class Siamese(nn.Module):
    """One layer for two views of the input, and their product."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return self.linear(x).tanh() * self.linear(x.flip(-1)).tanh()
