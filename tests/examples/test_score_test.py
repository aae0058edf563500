"""What a small Hessian is good for: the score (Lagrange multiplier) test that a normal sample has mean zero.

Under the hypothesis mu = 0 the likelihood is greatest at sigma_0^2 = mean(x^2). With the score s, the gradient of the
log-likelihood there, and the information I, minus its Hessian, LM = s^T I^-1 s is chi-squared with one degree of
freedom (Rao 1948). Both come from autograd on the tuple (mu, sigma).
"""

import pytest
import torch
from scipy import stats

from harness.problems.functions import normal_loglik_hessian, normal_loglik_objective
from methods.autograd_functional import hessian
from methods.ravel import ravel

SAMPLES = 200


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.15 + 1.5 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)


@pytest.fixture
def restricted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mu, sigma) of greatest likelihood under mu = 0."""
    return torch.zeros((), dtype=torch.float64), x.square().mean().sqrt()


def information(x: torch.Tensor, point: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The observed information (2, 2): autograd gives the Hessian of a tuple as a tuple of tuples of blocks."""
    blocks = torch.autograd.functional.hessian(lambda mu, sigma: normal_loglik_objective((mu, sigma), x), point)
    return -torch.stack([torch.stack(list(row)) for row in blocks])


def score(x: torch.Tensor, point: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The gradient (2,) of the log-likelihood."""
    mu, sigma = (value.clone().requires_grad_() for value in point)
    return torch.stack(torch.autograd.grad(normal_loglik_objective((mu, sigma), x), (mu, sigma)))


def test_the_information_has_its_closed_form(x, restricted) -> None:
    torch.testing.assert_close(information(x, restricted), -normal_loglik_hessian(restricted, x), rtol=1e-12, atol=0)
    theta, unravel = ravel(restricted)  # the same through one flat vector, as the methods here take it
    flat = hessian(lambda theta: normal_loglik_objective(unravel(theta), x), theta)
    torch.testing.assert_close(-flat, information(x, restricted), rtol=1e-12, atol=0)


def test_the_statistic_has_its_closed_form(x, restricted) -> None:
    """With the expected information diag(n, 2n) / sigma_0^2, LM = n mean(x)^2 / mean(x^2)."""
    s = score(x, restricted)
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64).diag() * SAMPLES / restricted[1] ** 2
    statistic = s @ torch.linalg.solve(expected, s)
    assert statistic.item() == pytest.approx(SAMPLES * x.mean().item() ** 2 / x.square().mean().item(), rel=1e-12)
    # At the restricted maximum the score in sigma is zero, and the expected and the observed information agree but for
    # the cross term 2 sum(x) / sigma^3, which vanishes under the hypothesis.
    assert s[1].abs() < 1e-9


def test_the_statistic_with_the_observed_information(x, restricted) -> None:
    """The cross term 2 sum(x) / sigma_0^3 divides it by 1 - 2 mean(x)^2 / sigma_0^2, which is near one."""
    s = score(x, restricted)
    statistic = (s @ torch.linalg.solve(information(x, restricted), s)).item()
    ratio = (x.mean() ** 2 / x.square().mean()).item()
    assert statistic == pytest.approx(SAMPLES * ratio / (1 - 2 * ratio), rel=1e-12)


def test_the_p_value_is_close_to_that_of_the_t_test(x, restricted) -> None:
    s = score(x, restricted)
    statistic = (s @ torch.linalg.solve(information(x, restricted), s)).item()
    p_value = stats.chi2(1).sf(statistic)
    t_test = stats.ttest_1samp(x.numpy(), 0.0)
    # The statistic with the expected information is a function of t, exactly: n t^2 / (n - 1 + t^2).
    t_squared = t_test.statistic**2
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64).diag() * SAMPLES / restricted[1] ** 2
    by_expected = (s @ torch.linalg.solve(expected, s)).item()
    assert by_expected == pytest.approx(SAMPLES * t_squared / (SAMPLES - 1 + t_squared), rel=1e-10)
    # Their distributions differ, chi-squared being the limit for large n: terms of order 1/n = 0.5 % in the statistic,
    # times a few in the p-value; a tenth leaves room.
    assert p_value == pytest.approx(t_test.pvalue, rel=0.1)
    assert 0.001 < p_value < 0.5, "a sample on which the comparison means something"


def test_a_sample_of_mean_zero_gives_no_evidence(x) -> None:
    centred = x - x.mean()
    point = (torch.zeros((), dtype=torch.float64), centred.square().mean().sqrt())
    s = score(centred, point)
    statistic = (s @ torch.linalg.solve(information(centred, point), s)).item()
    assert statistic == pytest.approx(0, abs=1e-12)
    assert stats.chi2(1).sf(max(statistic, 0)) == pytest.approx(1, abs=1e-5)
