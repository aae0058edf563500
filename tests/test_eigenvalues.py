"""Eigenvalues by iteration, against those of the whole matrix and against spectra that were chosen."""

import pytest
import torch

from harness.problems import networks
from methods import lanczos, lobpcg, power_iteration
from methods.peers import scipy_eigsh
from methods.ritz import rayleigh_ritz, wanted
from tests.oracles import central_differences
from tests.spectra import extremes, matrix_of, nearest, quadratic, rows_multiplied

METHODS = lanczos, lobpcg, power_iteration, scipy_eigsh
NETWORK = networks.mlp(inputs=5, width=8, outputs=3, batch=24)
HESSIAN = central_differences(NETWORK)
SPREAD = [9.0, -7.0, 5.0, 3.0, -2.5, 2.0, *(0.01 * n for n in range(-30, 31))]  # both ends count


def of(method, k, hessian=None, **options):
    """The result for the network, or for a matrix."""
    loss, theta = (NETWORK.loss, NETWORK.theta) if hessian is None else quadratic(hessian)
    return method.eigenvalues(loss, theta, k, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_network(method, dtype) -> None:
    problem = NETWORK.to("cpu", dtype)
    found = method.eigenvalues(problem.loss, problem.theta, 4, most_products=3000)
    true = extremes(HESSIAN, 4)
    assert found.value.dtype == found.error.dtype == dtype
    assert found.value.shape == found.error.shape == (5,)
    assert ((found.value - true).abs() <= found.error + 1e-11).all()
    assert found.error.max() < 1e-2 * true.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_both_ends_of_an_indefinite_spectrum(method) -> None:
    found = of(method, 5, matrix_of(SPREAD), most_products=3000)
    assert torch.allclose(found.value, torch.tensor([9, -7, 5, 3, -2.5, -7], dtype=torch.float64), atol=1e-2)
    assert (nearest(found.value, matrix_of(SPREAD)) <= found.error).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_lowest_eigenvalue_of_a_definite_matrix(method, sign) -> None:
    """It is not among those of largest magnitude, or it is the first of them."""
    hessian = sign * matrix_of([float(n) for n in range(1, 31)])
    found = of(method, 3, hessian, most_products=20_000, tolerance=1e-6)
    assert torch.allclose(found.value, extremes(hessian, 3), atol=1e-3)


@pytest.mark.parametrize("method", [lanczos, lobpcg, power_iteration])
@pytest.mark.parametrize("most", [60, 80, 120, 200])
def test_residuals_are_honest_where_products_run_out(method, most: int) -> None:
    """Each is that of a unit vector: an eigenvalue is within it, however early the iteration ends."""
    hessian = matrix_of(SPREAD)
    found = of(method, 2, hessian, most_products=most, tolerance=0.0)
    assert (nearest(found.value, hessian) <= found.error).all()
    assert found.products <= most


@pytest.mark.parametrize("method", [lanczos, lobpcg, power_iteration])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_error_of_finite_differences_is_stated(method, dtype) -> None:
    """Their products are those of a matrix that is a little off, which no residual shows."""
    problem = NETWORK.to("cpu", dtype)
    found = method.eigenvalues(
        problem.loss, problem.theta, 2, hvp="finite_differences", tolerance=0.0, most_products=150
    )
    assert (nearest(found.value, HESSIAN) <= found.error + 1e-12).all()
    assert found.error.max() < 1e-1 * found.value.abs().max()


@pytest.mark.parametrize("method", [lanczos, lobpcg, power_iteration])
def test_products_that_are_not_finite(method) -> None:
    with pytest.raises(ArithmeticError, match=r"the Hessian has entries that are not finite; look for operations"):
        of(method, 1, torch.full((12, 12), torch.nan, dtype=torch.float64))


def test_arpack_says_what_did_not_converge() -> None:
    """It gives no vectors that did not."""
    hessian = matrix_of([float(n) for n in range(-100, 101)])
    with pytest.raises(
        ArithmeticError, match=r"ARPACK found \d of 3 eigenvalues \(LM\) .*most_products=40; raise either"
    ):
        of(scipy_eigsh, 3, hessian, most_products=40, tolerance=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_products_are_counted(method, monkeypatch) -> None:
    seen = rows_multiplied(monkeypatch)
    found = of(method, 2)
    assert found.products == sum(seen)
    assert torch.equal(found.value, of(method, 2).value)


def test_lanczos_finds_eigenvalues_that_occur_several_times() -> None:
    """A Krylov space holds one vector of each; once it is exhausted, a vector outside it is drawn."""
    hessian = matrix_of([4.0, 4.0, 4.0, -3.0, -3.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    found = of(lanczos, 7, hessian)
    assert torch.allclose(found.value, extremes(hessian, 7), atol=1e-12)
    assert found.products == 10
    identity = of(lanczos, 3, torch.eye(50, dtype=torch.float64))
    assert torch.allclose(identity.value, torch.ones(4, dtype=torch.float64))


def test_lanczos_restarts() -> None:
    """In a space of few dimensions it needs several restarts, and more products."""
    hessian = matrix_of([float(n) for n in range(-100, 101)])
    large, small = of(lanczos, 3, hessian, subspace=60), of(lanczos, 3, hessian, subspace=12, most_products=3000)
    for found in (large, small):
        assert ((found.value.abs() - extremes(hessian, 3).abs()).abs() <= 1e-6).all()
    assert 60 < large.products < small.products < 1000


@pytest.mark.parametrize("method", [lanczos, power_iteration])
def test_a_hessian_of_zeros(method) -> None:
    found = of(method, 2, torch.zeros(6, 6, dtype=torch.float64))
    assert torch.equal(found.value, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("method", [lanczos, power_iteration])
def test_all_eigenvalues_of_a_small_matrix(method) -> None:
    hessian = matrix_of([5.0, -3.0, 1.0])
    found = of(method, 3, hessian, tolerance=1e-8)
    assert torch.allclose(found.value, torch.tensor([5.0, -3, 1, -3], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_asked_for(method) -> None:
    small = matrix_of([3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"k=4 eigenvalues were asked for, and 3 parameters have 3; set k to 1..3"):
        of(method, 4, small)
    with pytest.raises(ValueError, match="most_products must be a whole number of at least"):
        of(method, 2, most_products=1)
    with pytest.raises(ValueError, match="tolerance must be a number of at least 0; found -1"):
        of(method, 2, tolerance=-1)
    with pytest.raises(ValueError, match="sideways"):
        of(method, 2, hvp="sideways")


def test_what_each_method_cannot_do() -> None:
    with pytest.raises(ValueError, match="LOBPCG needs 6 k parameters or more; found k=1 and 3: take an exact method"):
        of(lobpcg, 1, matrix_of([3.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"subspace must have at least k \+ 2 = 5 dimensions; found 4"):
        of(lanczos, 3, subspace=4)
    with pytest.raises(ValueError, match="found k=3 of 3: take an exact method"):
        of(scipy_eigsh, 3, matrix_of([3.0, 2.0, 1.0]))


def test_rayleigh_ritz_residuals() -> None:
    """In one dimension they are |H q - (q . H q) q|."""
    hessian = matrix_of([3.0, 2.0, 1.0])
    vector = torch.tensor([[0.6], [0.8], [0.0]], dtype=torch.float64)
    found = rayleigh_ritz(vector, hessian @ vector, 1, 1)
    quotient = float(vector[:, 0] @ hessian @ vector[:, 0])
    assert torch.allclose(found.value, torch.full((2,), quotient, dtype=torch.float64))
    assert torch.allclose(found.error, (hessian @ vector - quotient * vector).norm().expand(2))


def test_wanted() -> None:
    values = torch.tensor([-4.0, 1.0, 3.0, -0.5])
    assert values[wanted(values, 2)].tolist() == [-4, 3, -4]
