"""Independent truths for tests: central differences and relative distances."""

import torch


def central_differences(problem, step: float = 1e-3) -> torch.Tensor:
    """The Hessian (P, P) of a float64 problem by central differences of its gradient, extrapolated (Richardson)."""

    def gradient(theta):
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(problem.loss(theta), theta)[0]

    def column(v, h):
        return (gradient(problem.theta + h * v) - gradient(problem.theta - h * v)) / (2 * h)

    eye = torch.eye(problem.theta.numel(), dtype=torch.float64)
    return torch.stack([(4 * column(v, step / 2) - column(v, step)) / 3 for v in eye], dim=1)


def distance(found: torch.Tensor, true: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found.double() - true).norm() / true.norm())
