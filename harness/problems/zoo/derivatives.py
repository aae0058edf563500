"""Modules that differentiate within their forward pass, and others that methods were seen to stumble over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
