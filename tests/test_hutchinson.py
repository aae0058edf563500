"""Hutchinson's estimator against its closed-form mean and variance."""

import pytest
import torch

from harness.problems import functions
from methods import hutchinson

PROBLEM = functions.logistic(inputs=4, classes=3, batch=12)
TRUE = PROBLEM.hessian()


def estimates(count: int, **options):
    return [hutchinson.diagonal(PROBLEM.loss, PROBLEM.theta, seed=seed, **options) for seed in range(count)]


@pytest.mark.parametrize("chunk_size", [7, 64, None, "auto"])
def test_mean_and_standard_error_are_those_of_theory(chunk_size: int | str | None) -> None:
    """Var of v_i (H v)_i over random signs is the sum of H_ij^2 over j != i (Bekas, Kokiopoulou and Saad 2007)."""
    probes, count = 20, 400
    found = estimates(count, probes=probes, chunk_size=chunk_size)
    variance = (TRUE.square().sum(1) - TRUE.diagonal().square()) / probes
    mean = torch.stack([estimate.value for estimate in found]).mean(0)
    assert ((mean - TRUE.diagonal()).abs() <= 4.5 * (variance / count).sqrt()).all()
    seen = torch.stack([estimate.standard_error.square() for estimate in found]).mean(0)
    assert torch.allclose(seen, variance, rtol=0.1)
    spread = torch.stack([estimate.value for estimate in found]).var(0)
    assert torch.allclose(spread, variance, rtol=0.35)


def test_the_same_seed_gives_the_same_estimate() -> None:
    first, again = estimates(1)[0], estimates(1)[0]
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, estimates(2)[1].value)


def test_a_diagonal_hessian_is_found_exactly() -> None:
    point = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = hutchinson.diagonal(lambda x: (x**3).sum(), point, probes=2)
    assert torch.allclose(found.value, 6 * point)
    assert found.standard_error.max() < 1e-12


@pytest.mark.parametrize("probes", [0, 1, 2.5])
def test_too_few_probes_are_refused(probes: float) -> None:
    with pytest.raises(ValueError, match=f"probes must be a whole number of at least 2; found {probes}"):
        hutchinson.diagonal(PROBLEM.loss, PROBLEM.theta, probes=probes)
