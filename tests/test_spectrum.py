"""The spectral density by Lanczos quadrature, against all eigenvalues and against theory."""

import functools

import pytest
import torch
from scipy import stats

from harness.problems import networks, transformers
from methods import dense, lanczos_quadrature, vmap_hvp
from tests.judging import by_autograd, judge

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=6, outputs=3, batch=16),
    "transformer": lambda: transformers.transformer(
        seed=1, vocabulary=3, width=4, length=3, expansion=1, outputs=3, causal=True, batch=8
    ),
}


@functools.cache
def hessian(name: str) -> torch.Tensor:
    return by_autograd(PROBLEMS[name]())


def estimate(matrix: torch.Tensor, **options):
    point = torch.ones(len(matrix), dtype=matrix.dtype)
    return lanczos_quadrature.spectrum(lambda x: x @ matrix @ x / 2, point, **options)


def moments(matrix: torch.Tensor) -> torch.Tensor:
    """By powers of the matrix, without its eigenvalues."""
    return torch.stack([torch.linalg.matrix_power(matrix, power).trace() / len(matrix) for power in range(1, 5)])


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_moments_are_within_their_intervals_in_90_to_99_of_100_runs(name: str) -> None:
    matrix = hessian(name)
    true, held = moments(matrix), torch.zeros(4)
    for seed in range(100):
        found = estimate(matrix, probes=10, steps=8, seed=seed)
        held += (found.moments - true).abs() <= stats.norm.ppf(0.975) * found.moment_errors
    assert held.min() >= 90
    assert held.max() <= 99


def test_all_steps_find_all_eigenvalues() -> None:
    """The nodes of P steps are the eigenvalues, if these are distinct (Golub and Meurant 1994)."""
    matrix = torch.diag(torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0, 4.0], dtype=torch.float64))
    found = estimate(matrix, probes=2, steps=50)
    assert found.products == 12
    assert torch.allclose(found.nodes.view(6, 2)[:, 0], matrix.diagonal(), atol=1e-10)
    assert float(found.weights.sum()) == pytest.approx(1)


def test_an_invariant_space_ends_the_steps() -> None:
    """Two distinct eigenvalues: Lanczos ends after two steps, and the rest has no weight."""
    matrix = torch.diag(torch.tensor([2.0] * 10 + [-1.0] * 10, dtype=torch.float64))
    found = estimate(matrix, probes=3, steps=8)
    for value, share in ((2.0, 0.5), (-1.0, 0.5)):
        near = (found.nodes - value).abs() < 1e-8
        assert float(found.weights[near].sum()) == pytest.approx(share, abs=0.35)
    elsewhere = ((found.nodes - 2).abs() > 1e-8) & ((found.nodes + 1).abs() > 1e-8)
    assert float(found.weights[elsewhere].sum()) < 1e-12


def test_the_ends_of_the_spectrum_are_found() -> None:
    matrix = hessian("transformer")
    ends = torch.linalg.eigvalsh(matrix)[[0, -1]]
    found = estimate(matrix, probes=2, steps=30)
    assert torch.allclose(found.nodes[[0, -1]], ends, rtol=1e-3)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_verdict(name: str) -> None:
    problem = PROBLEMS[name]()
    found = lanczos_quadrature.spectrum(problem.loss, problem.theta)
    seen = judge(found, problem, quantity="spectrum")
    assert seen["status"] == "ok", seen["message"]
    assert seen["products"] == 480
    assert 0 < seen["relative_error"] < 0.5
    exact = vmap_hvp.spectrum(problem.loss, problem.theta, "reverse_over_reverse")
    seen = judge(exact, problem, quantity="spectrum")
    assert (seen["status"], seen["products"], seen["relative_error"] < 1e-12) == ("ok", None, True)


def test_an_exact_spectrum_has_exact_moments() -> None:
    matrix = hessian("mlp")
    found = dense.spectrum(matrix)
    assert torch.allclose(found.moments, moments(matrix))
    assert not found.moment_errors.any()


@pytest.mark.parametrize(("options", "words"), [({"probes": 0}, "probes"), ({"steps": 4}, "steps")])
def test_bad_options_are_refused(options, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words} must be a whole number of at least"):
        estimate(torch.eye(3), **options)
