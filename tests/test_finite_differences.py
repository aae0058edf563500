"""Finite differences of gradients: honest about their error, and all that they ask for is one backward pass."""

import functools

import pytest
import torch
from torch import nn

from harness.problems import from_network, functions, networks, transformers
from methods import finite_differences, vmap_hvp
from methods.products import Products
from tests.judging import by_autograd, judge
from tests.oracles import distance

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=6, outputs=3, batch=16),
    "layernorm": lambda: networks.mlp(inputs=5, width=6, outputs=3, batch=16, norm="layer"),
    "relu": lambda: networks.mlp(inputs=4, width=6, outputs=3, batch=16, activation="relu"),
    "transformer": lambda: transformers.transformer(
        seed=1, vocabulary=3, width=4, length=3, expansion=1, outputs=3, causal=True, batch=8
    ),
    "rosenbrock": lambda: functions.rosenbrock(size=6),
    "normal_loglik": lambda: functions.normal_loglik(),
}
QUICK = [name for name in PROBLEMS if name != "transformer"]
SLOW = pytest.param("transformer", marks=pytest.mark.slow)


@functools.cache
def truth(name: str, dtype: torch.dtype):
    """A problem in a dtype, and the Hessian at its parameters and data as rounded to it."""
    problem = PROBLEMS[name]().to("cpu", dtype)
    return problem, by_autograd(problem.to("cpu", torch.float64))


def drawn(params: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(params, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("sided", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*QUICK, SLOW])
def test_the_error_is_as_stated_for_95_of_100_vectors(name: str, dtype: torch.dtype, sided: int) -> None:
    problem, hessian = truth(name, dtype)
    vectors = drawn(len(hessian), 100, dtype)
    found = finite_differences.hvp(problem.loss, problem.theta, vectors, sided)
    errors = (found.value.double() - hessian @ vectors.double()).norm(dim=0)
    assert int((errors <= found.error).sum()) >= 95
    assert float(found.error.median()) <= 30 * float(errors.median()), "an interval that says something"
    assert found.products == (400 if sided == 2 else 201)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("name", ["mlp", "transformer", "normal_loglik"])
def test_the_verdict_is_ok(name: str, dtype: torch.dtype, limit: float) -> None:
    problem, hessian = truth(name, dtype)
    vectors = drawn(len(hessian), 3, dtype)
    exact = problem.to("cpu", torch.float64)
    for quantity, options in (("hvp", {"vectors": vectors}), ("hessian", {}), ("diagonal", {})):
        if len(hessian) > 100 and quantity != "hvp":
            continue
        found = getattr(finite_differences, quantity)(problem.loss, problem.theta, **options)
        seen = judge(found, exact, quantity=quantity, vectors=vectors.double() if quantity == "hvp" else None)
        assert seen["status"] == "ok", seen["message"]
        assert seen["covered"]
        assert seen["relative_error"] <= limit
        assert seen["relative_error"] <= seen["stated_error"] == seen["tolerance"]
        assert seen["products"] == found.products


def test_an_error_that_is_understated_is_wrong() -> None:
    problem, hessian = truth("mlp", torch.float64)
    vectors = drawn(len(hessian), 3, torch.float64)
    found = finite_differences.hvp(problem.loss, problem.theta, vectors)
    shifted = found._replace(value=found.value * (1 + 1e-6))
    for result, word in (
        (shifted, "larger than stated"),
        (found._replace(error=-found.error), "negative"),
        (found._replace(value=0 * found.value, error=2 * (hessian @ vectors).norm(dim=0)), "says nothing"),
    ):
        seen = judge(result, problem, quantity="hvp", vectors=vectors)
        assert (seen["status"], word in seen["message"]) == ("wrong", True), seen["message"]


class Cube(torch.autograd.Function):
    """A cube whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def test_a_function_without_a_second_derivative() -> None:
    theta = torch.linspace(-1, 2, 7, dtype=torch.float64)

    def loss(x):
        return Cube.apply(x).sum()

    with pytest.raises(RuntimeError):
        vmap_hvp.hvp(loss, theta, torch.ones(7, 1).double(), "reverse_over_reverse")
    vectors = drawn(7, 4, torch.float64)
    found = finite_differences.hvp(loss, theta, vectors)
    errors = (found.value - 6 * theta[:, None] * vectors).norm(dim=0)
    assert (errors <= found.error).all()
    matrix = finite_differences.hessian(loss, theta)
    assert distance(matrix.value, (6 * theta).diag()) < 1e-8
    products = Products(loss, theta, "finite_differences")
    assert distance(products(vectors), 6 * theta[:, None] * vectors) < 1e-8
    assert products.count == 8


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(self.lstm(inputs)[0][:, -1])


def test_a_recurrent_layer() -> None:
    """On the CPU its double backward exists, and is the truth; cuDNN's has none."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    problem = from_network(Recurrent().double(), nn.MSELoss(), inputs, targets)
    hessian, vectors = by_autograd(problem), drawn(problem.theta.numel(), 3, torch.float64)
    found = finite_differences.hvp(problem.loss, problem.theta, vectors)
    assert ((found.value - hessian @ vectors).norm(dim=0) <= found.error).all()


def test_a_linear_loss_and_a_vector_of_zeros() -> None:
    theta = torch.zeros(3, dtype=torch.float64)
    for loss in (lambda x: x.sum(), lambda x: torch.tensor(2.0).double()):
        found = finite_differences.hvp(loss, theta, torch.eye(3).double())
        assert float(found.value.abs().max()) <= 1e-8
    none = finite_differences.hvp(lambda x: (x**2).sum(), theta, torch.zeros(3, 1).double())
    assert not none.value.any()
    assert not none.error.any()


def test_bad_arguments_are_refused() -> None:
    theta = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="sided must be 1 or 2; found 3"):
        finite_differences.hvp(torch.sum, theta, theta[:, None], sided=3)
    with pytest.raises(ValueError, match="not finite"):
        finite_differences.hvp(torch.sum, theta, torch.full((2, 1), torch.nan).double())
