"""Random estimates: an honest one is ok, one that says nothing or contradicts its own standard errors is not."""

import pytest
import torch

from harness.problems import from_function, functions, networks
from harness.truth import results
from methods import hutchinson
from methods.estimates import Estimate
from tests.judging import FULL, PROBED, by_autograd, judge

NETWORK = networks.mlp(inputs=4, width=6, outputs=3, batch=16)
TRUE = by_autograd(NETWORK).diagonal()
SIZE = TRUE.norm() / len(TRUE) ** 0.5
NOISE = torch.randn(len(TRUE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ZERO, ONE = torch.zeros_like(TRUE), torch.ones_like(TRUE)
FIRST = ONE * (torch.arange(len(TRUE)) < 1)

HONEST = {
    "close": (TRUE + 0.1 * SIZE * NOISE, 0.1 * SIZE * ONE),
    "coarse": (TRUE + 0.4 * SIZE * NOISE, 0.4 * SIZE * ONE),
    "exact": (TRUE, ZERO),
    "one entry off by its own error": (TRUE + 0.5 * SIZE * FIRST, 0.5 * SIZE * FIRST),
}
DISHONEST = {
    "zeros": (ZERO, 1e9 * ONE, "says nothing"),
    "zeros that are called as uncertain as the truth": (ZERO, TRUE.abs(), "standard errors"),
    "zeros, half as uncertain": (ZERO, 0.5 * TRUE.abs(), "standard errors"),
    "a noise as large as its errors": (100 * SIZE * NOISE, 100 * SIZE * ONE, "says nothing"),
    "twice the truth": (2 * TRUE, 0.5 * TRUE.abs(), "along the true values"),
    "shrunk": (0.5 * TRUE, 0.2 * TRUE.abs(), "along the true values"),
    "exact, and modest": (TRUE, 0.3 * SIZE * ONE, "contradict"),
    "wrong, and certain": (1.1 * TRUE, ZERO, "more than 4 standard errors"),
    "five errors off": (TRUE + 0.5 * SIZE * NOISE.sign(), 0.1 * SIZE * ONE, "more than 4 standard errors"),
    "negative": (TRUE, -0.1 * SIZE * ONE, "negative"),
}


@pytest.mark.parametrize(("value", "error"), HONEST.values(), ids=HONEST.keys())
def test_honest(value, error) -> None:
    seen = judge(Estimate(value, error, 30), NETWORK, quantity="diagonal")
    assert seen["status"] == "ok", seen["message"]
    assert seen["standard_error"] == pytest.approx(float(error.norm() / TRUE.norm()))


@pytest.mark.parametrize(("value", "error", "word"), DISHONEST.values(), ids=DISHONEST.keys())
def test_dishonest(value, error, word) -> None:
    seen = judge(Estimate(value, error, 30), NETWORK, quantity="diagonal")
    assert (seen["status"], word in seen["message"]) == ("wrong", True), seen["message"]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_standard_errors_must_be_numbers(spoilt) -> None:
    assert judge(Estimate(TRUE, TRUE * spoilt, 30), NETWORK, quantity="diagonal")["status"] == "nonfinite"


@pytest.mark.parametrize("problem", [NETWORK, functions.logistic(), functions.rosenbrock(), functions.quadratic()])
def test_hutchinson_is_ok(problem) -> None:
    for seed in range(5):
        found = hutchinson.diagonal(problem.loss, problem.theta, probes=200, seed=seed)
        seen = judge(found, problem, quantity="diagonal")
        assert seen["status"] == "ok", seen["message"]


def test_an_estimate_of_zeros() -> None:
    """A matrix without a diagonal, which hutchinson estimates with errors of the size of the matrix."""
    matrix = functions.quadratic(size=20).hessian()
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(20).double(), (matrix - matrix.diagonal().diag(),))
    found = hutchinson.diagonal(problem.loss, problem.theta, probes=200)
    assert judge(found, problem, quantity="diagonal")["status"] == "ok"
    shifted = found._replace(value=found.value + 5 * found.standard_error)
    assert judge(shifted, problem, quantity="diagonal")["status"] == "wrong"


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp"])
@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_estimates_of_other_quantities(quantity, measure) -> None:
    matrix, vectors = by_autograd(NETWORK), torch.ones(len(TRUE), 2, dtype=torch.float64)
    true = {"hessian": matrix, "diagonal": TRUE, "hvp": matrix @ vectors}[quantity]
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size, given = true.norm() / true.numel() ** 0.5, vectors if quantity == "hvp" else None
    ones = torch.ones_like(true)
    for value, error, status in (
        (true + 0.1 * size * noise, 0.1 * size * ones, "ok"),
        (0 * true, 1e9 * ones, "wrong"),
        (true, size * ones, "wrong"),
    ):
        estimate = Estimate(value, error, 9)
        assert results.result_fault(estimate, quantity, NETWORK.theta, given) is None
        assert judge(estimate, NETWORK, measure, quantity, given)["status"] == status
    blocks = Estimate(TRUE, TRUE, 3)
    assert "not estimated" in str(results.result_fault(blocks, "block_diagonal", NETWORK.theta, None, (1, 1, 1)))
