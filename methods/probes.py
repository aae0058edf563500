"""Random vectors that estimates of a Hessian are made with."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.products import Products
from methods.ritz import rounding


def generator(theta: Tensor, seed: int) -> torch.Generator:
    """A generator on theta's device that draws the same numbers for the same seed."""
    return torch.Generator(theta.device).manual_seed(seed)


def signs(theta: Tensor, count: int, drawn: torch.Generator) -> Tensor:
    """`count` vectors of random signs, as columns (P, count), of theta's dtype and device (Rademacher vectors)."""
    bits = torch.randint(0, 2, (theta.numel(), count), generator=drawn, device=theta.device)
    return (2 * bits - 1).to(theta.dtype)


def on_sphere(theta: Tensor, count: int, drawn: torch.Generator) -> Tensor:
    """`count` vectors, uniform on the sphere of radius sqrt(P), as columns (P, count)."""
    normal = torch.randn(theta.numel(), count, generator=drawn, device=theta.device, dtype=theta.dtype)
    return normal * (theta.numel() ** 0.5 / normal.norm(dim=0))


def standard_error(samples: Tensor) -> Tensor:
    """The standard error of the mean of independent samples (m, ...) over their first dimension."""
    return samples.std(0) / len(samples) ** 0.5


def noise(times: Products, size: Tensor) -> Tensor:
    """What rounding, or the error of finite differences, adds to a trace; `size` () is about H's Frobenius norm."""
    params = times.theta.numel()
    return rounding(params, size.dtype) * size + times.error * params**0.5
