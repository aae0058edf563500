"""Estimates of the trace: their intervals hold the truth as often as they say, and what is exact is exact."""

import functools
import itertools

import pytest
import torch
from scipy import stats

from harness.problems import functions, networks, transformers
from methods import hutchinson, hutchpp, xtrace
from tests.judging import by_autograd, judge
from tests.spectra import matrix_of, quadratic

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=6, outputs=3, batch=16),
    "relu": lambda: networks.mlp(inputs=4, width=6, outputs=3, batch=16, activation="relu"),
    "cnn": lambda: networks.cnn(image=4, channels=2, outputs=3, batch=6),
    "transformer": lambda: transformers.transformer(
        seed=1, vocabulary=3, width=4, length=3, expansion=1, outputs=3, causal=True, batch=8
    ),
}
METHODS = {
    "hutchinson": functools.partial(hutchinson.trace, probes=20),
    "hutchpp": functools.partial(hutchpp.trace, products=30),
    "xtrace": functools.partial(xtrace.trace, products=20),
}


@functools.cache
def hessian(name: str) -> torch.Tensor:
    return by_autograd(PROBLEMS[name]())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_interval_holds_the_truth_in_90_to_99_of_100_runs(name: str, method: str) -> None:
    """The products are those of the network's own Hessian, by a quadratic loss, so that the runs are cheap."""
    matrix = hessian(name)
    true = float(matrix.trace())
    held = 0
    for seed in range(100):
        found = METHODS[method](*quadratic(matrix), seed=seed)
        half = stats.t.ppf(0.975, found.probes - 1) * float(found.standard_error)
        held += abs(float(found.value) - true) <= half
    assert 90 <= held <= 99


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("method", "rank"), [("hutchinson", 60), *itertools.product(("hutchpp", "xtrace"), (1, 4, 60))]
)
def test_rounding_is_within_the_interval_where_nothing_is_random(method: str, dtype, rank: int) -> None:
    """A matrix of low rank, or one times the identity: an estimate is exact, but for the rounding of its products."""
    eigenvalues = [1.0] * 60 if rank == 60 else [*[10.0, -3.0, 2.0, 1.0][:rank], *[0.0] * (60 - rank)]
    matrix = (torch.eye(60, dtype=torch.float64) if rank == 60 else matrix_of(eigenvalues)).to(dtype)
    held = 0
    for seed in range(100):
        found = METHODS[method](*quadratic(matrix), seed=seed)
        half = stats.t.ppf(0.975, found.probes - 1) * float(found.standard_error)
        held += abs(float(found.value) - float(matrix.double().trace())) <= half
    assert held >= 90


@pytest.mark.parametrize("method", [hutchinson, hutchpp, xtrace])
def test_a_single_parameter(method) -> None:
    found = method.trace(*quadratic(torch.tensor([[3.0]], dtype=torch.float64)))
    assert float(found.value) == 3
    assert 0 <= float(found.standard_error) < 1e-14


def test_the_mean_and_the_standard_error_of_hutchinson_are_those_of_theory() -> None:
    """Var of v^T H v over random signs is twice the sum of H_ij^2 over i != j (Hutchinson 1990)."""
    matrix = hessian("mlp")
    variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum()) / 50
    found = [hutchinson.trace(*quadratic(matrix), probes=50, seed=seed) for seed in range(200)]
    mean = torch.stack([estimate.value for estimate in found]).mean()
    assert abs(float(mean - matrix.trace())) <= 4 * (variance / 200) ** 0.5
    assert float(torch.stack([estimate.standard_error.square() for estimate in found]).mean()) == pytest.approx(
        variance, rel=0.1
    )


@pytest.mark.parametrize(("method", "products"), [(hutchpp, 30), (xtrace, 30)])
def test_a_matrix_of_low_rank_is_traced_exactly(method, products: int) -> None:
    """Both find the range of a matrix of rank below theirs."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    matrix = factor @ torch.diag(torch.tensor([3.0, 1.0, -2.0, 0.5, -0.1]).double()) @ factor.T
    found = method.trace(*quadratic(matrix), products=products)
    assert float(found.value) == pytest.approx(float(matrix.trace()), rel=1e-10)
    assert float(found.standard_error) <= 1e-8 * float(matrix.norm())


@pytest.mark.parametrize("method", [hutchpp, xtrace])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_zero_and_tiny_matrices(method, scale: float) -> None:
    matrix = scale * torch.tensor([[1.0, 2.0], [2.0, -3.0]], dtype=torch.float64)
    found = method.trace(*quadratic(matrix), products=60)
    assert float(found.value) == pytest.approx(float(matrix.trace()), abs=1e-12)
    assert float(found.standard_error) <= 1e-12


def test_hutchpp_and_xtrace_beat_hutchinson_where_eigenvalues_decay() -> None:
    """The reason to have them (Meyer and others 2021, section 5; Epperly and others 2024, section 3)."""
    basis = torch.linalg.qr(torch.randn(80, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    matrix = basis @ torch.diag(0.7 ** torch.arange(80).double()) @ basis.T

    def spread(method, **options) -> float:
        errors = [float(method.trace(*quadratic(matrix), seed=seed, **options).value) for seed in range(20)]
        return float((torch.tensor(errors) - matrix.trace()).square().mean().sqrt())

    by_probes = spread(hutchinson, probes=30)
    assert spread(hutchpp, products=30) < by_probes / 3
    assert spread(xtrace, products=30) < spread(hutchpp, products=30)


@pytest.mark.parametrize("method", METHODS)
def test_the_products_are_counted_and_may_be_by_gradients(method: str) -> None:
    problem = PROBLEMS["mlp"]()
    found = METHODS[method](problem.loss, problem.theta)
    by_gradients = METHODS[method](problem.loss, problem.theta, hvp="finite_differences")
    assert float(by_gradients.value) == pytest.approx(float(found.value), rel=1e-6)
    assert by_gradients.products == 2 * (found.products or 0) <= 60
    assert judge(found, problem, quantity="trace")["status"] == "ok"


@pytest.mark.parametrize(("method", "products"), [(hutchpp, 5), (xtrace, 3), (xtrace, 10.5)])
def test_too_few_products_are_refused(method, products: float) -> None:
    with pytest.raises(ValueError, match=f"products must be a whole number of at least .*; found {products}"):
        method.trace(*quadratic(torch.eye(3)), products=products)


def test_a_gradient_problem_of_functions() -> None:
    problem = functions.rosenbrock(size=6)
    for method in METHODS.values():
        assert judge(method(problem.loss, problem.theta), problem, quantity="trace")["status"] == "ok"
