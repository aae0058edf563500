"""Problems whose Hessian has a closed form, so that autograd is checked against algebra."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.problems.construction import from_function, from_network
from harness.problems.errors import ProblemError
from harness.problems.networks import draw_parameters, require_positive
from harness.problems.problem import Problem


def quadratic(*, seed: int = 0, size: int = 20, condition: float = 100.0) -> Problem:
    """x^T A x / 2 + b^T x with a symmetric A whose eigenvalues run from 1 to `condition`; the Hessian is A."""
    require_positive("quadratic", size=size)
    if not condition >= 1:
        raise ProblemError(f"quadratic: condition={condition} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = basis @ torch.logspace(0, math.log10(condition), size, dtype=torch.float64).diag() @ basis.T
    matrix = (matrix + matrix.T) / 2
    b, x = torch.randn(2, size, generator=generator, dtype=torch.float64)

    def objective(x: Tensor, matrix: Tensor, b: Tensor) -> Tensor:
        return x @ matrix @ x / 2 + b @ x

    return from_function(objective, x, (matrix, b), hessian=lambda x, matrix, b: matrix)


def rosenbrock(*, seed: int = 0, size: int = 10) -> Problem:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 (Rosenbrock 1960, chained); the Hessian is tridiagonal."""
    require_positive("rosenbrock", size=size)
    if size < 2:
        raise ProblemError(f"rosenbrock: size={size} must be at least 2")
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def objective(x: Tensor) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    def hessian(x: Tensor) -> Tensor:
        on, off = torch.zeros_like(x), -400 * x[:-1]
        on[:-1] = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
        on[1:] += 200
        return on.diag() + off.diag(1) + off.diag(-1)

    return from_function(objective, x, hessian=hessian)


def normal_loglik(*, seed: int = 0, samples: int = 50, mean: float = 0.3, scale: float = 1.5) -> Problem:
    """Log-likelihood of a normal sample in the tuple (mu, sigma), at `mean` and `scale`.

    sum_n -log(sigma) - (x_n - mu)^2 / (2 sigma^2) - log(2 pi) / 2; minus its Hessian is the observed information.
    """
    require_positive("normal_loglik", samples=samples)
    if not (isinstance(scale, int | float) and scale > 0):
        raise ProblemError(f"normal_loglik: scale={scale} must be positive")
    x = torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    point = (torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    return from_function(normal_loglik_objective, point, (x,), hessian=normal_loglik_hessian)


def normal_loglik_objective(parameters: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Log-likelihood () of the sample x (n,) at (mu, sigma), each ()."""
    mu, sigma = parameters
    return (-sigma.log() - (x - mu) ** 2 / (2 * sigma**2) - math.log(2 * math.pi) / 2).sum()


def normal_loglik_hessian(parameters: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Its Hessian (2, 2) in (mu, sigma)."""
    mu, sigma = parameters
    residual = x - mu
    cross = -2 * residual.sum() / sigma**3
    on_sigma = (1 / sigma**2 - 3 * residual**2 / sigma**4).sum()
    return torch.stack([torch.stack([-len(x) / sigma**2, cross]), torch.stack([cross, on_sigma])])


def logistic(*, seed: int = 0, inputs: int = 8, classes: int = 4, batch: int = 64, bias: bool = True) -> Problem:
    """Softmax regression (a linear layer with cross-entropy), averaged over the batch.

    With x~ = (x, 1), p = softmax(W x~) and S_n = diag(p_n) - p_n p_n^T, the Hessian in W is
    1/N sum_n S_n (x) x~_n x~_n^T (Boehning 1992); without `bias` x~ = x.
    """
    require_positive("logistic", inputs=inputs, classes=classes, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    model = draw_parameters(nn.Linear(inputs, classes, bias=bias), generator)
    x = torch.randn(batch, inputs, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (batch,), generator=generator)
    return from_network(model, nn.CrossEntropyLoss(), x, y, hessian=softmax_regression_hessian)


def softmax_regression_hessian(model: nn.Linear, x: Tensor) -> Tensor:
    """The closed form above, (P, P), in the order weight (classes, inputs), bias (classes,)."""
    classes = model.out_features
    p = model(x).detach().softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # (N, classes, classes)
    if model.bias is not None:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    full = torch.einsum("ncd,ni,nj->cidj", curvature, x, x) / len(x)
    columns = x.shape[1]
    order = torch.arange(classes * columns).view(classes, columns)
    if model.bias is not None:
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
    order = order.flatten()
    return full.reshape(classes * columns, classes * columns)[order][:, order]
