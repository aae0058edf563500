"""Derivatives from values alone, against closed forms; their own error estimate, against the true error."""

import math

import pytest
import torch

from harness.problems import from_function, functions
from harness.problems.zoo import functions as zoo
from harness.truth import differences


def distance(found, true):
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize(
    "build", [functions.quadratic, functions.rosenbrock, functions.logistic, functions.normal_loglik]
)
def test_closed_forms(build) -> None:
    problem = build(seed=3)
    found, error = differences.hessian(problem.loss, problem.theta)
    true = distance(found, problem.hessian())
    assert true < 1e-10
    assert error < 1e-9
    assert true < 10 * error + 1e-15


def test_a_kink_that_only_long_steps_cross_spoils_nothing() -> None:
    theta = torch.tensor([0.011, -0.7], dtype=torch.float64)  # the first step is 0.05 times their root mean square
    found, error = differences.hessian(lambda x: x.relu().pow(2).sum() + x.abs().sum(), theta)
    assert distance(found, torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))) < 1e-9
    assert error < 1e-8


def test_at_a_kink_the_error_says_so() -> None:
    _, error = differences.hessian(
        lambda x: (x.abs() * x).sum() + x.square().sum(), torch.zeros(2, dtype=torch.float64)
    )
    assert error < 1e-9, "x |x| has no second derivative at 0, but its central difference there is 0 at every step"
    _, error = differences.hessian(lambda x: x.clamp(min=0).pow(1.5).sum(), torch.zeros(2, dtype=torch.float64))
    assert error > 1e-3


@pytest.mark.parametrize(
    ("name", "point", "true"),
    [
        ("squared_norm", "zeros", lambda x: 2 * torch.eye(4)),
        ("sqrt_squared", "with_zero", lambda x: torch.diag(2 * torch.arange(4).cos() + 6 * x**2)),
    ],
)
def test_where_the_gradient_is_not_finite_the_loss_tells(name, point, true) -> None:
    """Of y = x^2 the zoo's objective is sum cos(k) y_k + y_k^2 / 2."""
    objective, x = zoo.function(name=f"harness.problems.zoo.functions.{name}", shape=[4], point=point)
    gradient = torch.func.grad(objective)(x)
    assert torch.isfinite(gradient).all() == (point == "zeros")
    found, error = differences.hessian(objective, x)
    assert distance(found, true(x).double()) < 1e-8
    assert error < 1e-8


def test_a_gradient_that_is_not_the_loss_s_is_not_believed() -> None:
    """A straight-through gradient: the loss is x^4, what autograd gives is that of x^2."""

    def loss(x):
        return (x.square() + (x**4 - x.square()).detach()).sum()

    theta = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
    found, error = differences.hessian(loss, theta)
    assert distance(found, torch.diag(12 * theta**2)) < 1e-7
    assert error < 1e-6
    _, error = differences.hessian(loss, torch.linspace(1, 2, differences.PAIRS_UP_TO + 1, dtype=torch.float64))
    assert error == math.inf, "too many parameters for second differences"


def test_a_hessian_of_zeros() -> None:
    problem = from_function(lambda x: (3 * x).sum(), torch.arange(3.0, dtype=torch.float64))
    found, error = differences.hessian(problem.loss, problem.theta)
    assert not found.any()
    assert error == 0
