"""Independent truths for tests: central differences and relative distances."""

import torch


def jacobian_by_differences(function, point: torch.Tensor, step: float = 3e-4) -> torch.Tensor:
    """The Jacobian of a function of a vector at a float64 point, by central differences, extrapolated (Richardson)."""

    def column(v, h):
        return (function(point + h * v) - function(point - h * v)) / (2 * h)

    eye = torch.eye(point.numel(), dtype=torch.float64)
    return torch.stack([(4 * column(v, step / 2) - column(v, step)) / 3 for v in eye], dim=1)


def central_differences(problem, step: float = 3e-4) -> torch.Tensor:
    """The Hessian (P, P) of a float64 problem by central differences of its gradient."""

    def gradient(theta):
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(problem.loss(theta), theta)[0]

    return jacobian_by_differences(gradient, problem.theta, step)


def distance(found: torch.Tensor, true: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found.double() - true).norm() / true.norm())
