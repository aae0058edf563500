"""Products with the inverse of H + damping I by iteration, against direct solutions and closed forms."""

import pytest
import torch

from harness.problems import networks
from methods import conjugate_gradients, dense, minres, neumann
from methods.peers import scipy_krylov
from tests.oracles import central_differences, distance
from tests.spectra import matrix_of, quadratic, rows_multiplied

METHODS = conjugate_gradients, minres, neumann, scipy_krylov
NETWORK = networks.mlp(inputs=5, width=8, outputs=3, batch=24)
HESSIAN = central_differences(NETWORK)
INDEFINITE = matrix_of([9.0, -7.0, 5.0, 3.0, -2.5, 2.0, 1.0, -0.5])


def vectors_of(params: int, count: int = 2):
    return torch.randn(params, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def solution_of(hessian, vectors, damping: float):
    return torch.linalg.solve(hessian + damping * torch.eye(len(hessian), dtype=torch.float64), vectors)


def residuals_of(hessian, solution, vectors, damping: float):
    left = hessian @ solution.double() + damping * solution.double() - vectors
    return left.norm(dim=0) / vectors.norm(dim=0)


def of(method, hessian, vectors, damping: float, **options):
    return method.ihvp(*quadratic(hessian), vectors, damping, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_positive_definite_system_of_a_network(method, dtype) -> None:
    problem, vectors = NETWORK.to("cpu", dtype), vectors_of(len(HESSIAN))
    found = method.ihvp(problem.loss, problem.theta, vectors.to(dtype), 1.0, tolerance=1e-6)
    assert found.value.dtype == found.error.dtype == dtype
    assert found.value.shape == vectors.shape
    assert distance(found.value, solution_of(HESSIAN, vectors, 1.0)) < 1e-4
    assert torch.allclose(found.error.double(), residuals_of(HESSIAN, found.value, vectors, 1.0), rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("method", [minres, scipy_krylov])
def test_an_indefinite_system_is_solved_as_it_is(method) -> None:
    vectors = vectors_of(len(INDEFINITE))
    found = of(method, INDEFINITE, vectors, 0.1, tolerance=1e-12)
    assert distance(found.value, solution_of(INDEFINITE, vectors, 0.1)) < 1e-9
    assert found.error.max() < 1e-9


@pytest.mark.parametrize("steps", range(1, 8))
def test_minres_has_the_least_residual_in_the_krylov_space(steps: int) -> None:
    """The space is that of v, A v, ..., in which least squares find the same solution."""
    vector = vectors_of(len(INDEFINITE), 1)
    damped = INDEFINITE + 0.1 * torch.eye(len(INDEFINITE), dtype=torch.float64)
    space = [vector[:, 0]]
    while len(space) < steps:
        space.append(damped @ space[-1])
    basis = torch.linalg.qr(torch.stack(space, dim=1)).Q
    least = basis @ torch.linalg.lstsq(damped @ basis, vector).solution
    found = of(minres, INDEFINITE, vector, 0.1, tolerance=0.0, most_products=steps)
    assert distance(found.value, least) < 1e-8
    assert found.products == steps + 1


def test_minres_on_a_singular_system() -> None:
    """The part of the vector outside the range is what is left."""
    hessian = torch.diag(torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64))
    vector = torch.tensor([[1.0], [1.0], [1.0]], dtype=torch.float64)
    found = of(minres, hessian, vector, 0.0)
    assert found.error == pytest.approx(1 / 3**0.5)
    assert torch.allclose(found.value[:2, 0], torch.tensor([0.5, -1.0], dtype=torch.float64))


def test_conjugate_gradients_end_after_as_many_products_as_there_are_eigenvalues() -> None:
    hessian = matrix_of([3.0] * 20 + [1.0] * 20 + [0.5] * 20)
    found = of(conjugate_gradients, hessian, vectors_of(60), 0.1, tolerance=1e-12)
    assert found.products == 2 * (3 + 1)
    assert found.error.max() < 1e-12


def test_conjugate_gradients_refuse_negative_curvature() -> None:
    """The message has the quotient, and the damping that it asks for is a lower bound of the one that is needed."""
    hessian = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))
    vector = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    with pytest.raises(ArithmeticError) as caught:
        of(conjugate_gradients, hessian, vector, 0.1)
    for words in (
        "negative curvature in product 1: p . (H + damping I) p / p . p = -0.4 with damping=0.1",
        "H has an eigenvalue of at most -0.5 and the matrix is not positive definite",
        "take a damping above 0.5 at least, or a method for indefinite matrices, such as minres",
    ):
        assert words in str(caught.value)
    with pytest.raises(ArithmeticError, match="negative curvature"):
        conjugate_gradients.ihvp(NETWORK.loss, NETWORK.theta, vectors_of(len(HESSIAN)), 0.01)


def test_the_neumann_series_is_its_partial_sum() -> None:
    hessian, vector, scale = matrix_of([1.5, 1.0, 0.5]), vectors_of(3, 1), 0.4
    found = of(neumann, hessian, vector, 0.1, scale=scale, tolerance=0.0, most_products=7)
    factor = torch.eye(3, dtype=torch.float64) - scale * (hessian + 0.1 * torch.eye(3, dtype=torch.float64))
    partial = sum(scale * torch.linalg.matrix_power(factor, power) @ vector for power in range(7))
    assert distance(found.value, partial) < 1e-14
    assert found.products == 8
    left = torch.linalg.matrix_power(factor, 7) @ vector
    assert torch.allclose(found.error, left.norm(dim=0) / vector.norm(dim=0))


def test_the_neumann_series_says_that_it_diverges() -> None:
    with pytest.raises(ArithmeticError, match=r"H \+ damping I has an eigenvalue outside \(0, .*more damping"):
        of(neumann, INDEFINITE, vectors_of(len(INDEFINITE)), 0.1)
    with pytest.raises(ArithmeticError, match=r"outside \(0, 0.5\), which is .*a smaller scale where it is too large"):
        of(neumann, matrix_of([1.5, 1.0, 0.5]), vectors_of(3), 0.1, scale=4.0)


def test_the_neumann_series_of_zeros() -> None:
    """Only the damping is left."""
    found = of(neumann, torch.zeros(4, 4, dtype=torch.float64), vectors_of(4), 0.5, tolerance=1e-9)
    assert distance(found.value, 2 * vectors_of(4)) < 1e-8


@pytest.mark.parametrize("method", METHODS)
def test_residuals_are_honest_where_products_run_out(method) -> None:
    hessian, vectors = matrix_of([1.0 * n for n in range(1, 41)]), vectors_of(40)
    for most in (1, 2, 5, 11):
        found = of(method, hessian, vectors, 0.1, most_products=most, tolerance=0.0)
        assert torch.allclose(found.error, residuals_of(hessian, found.value, vectors, 0.1), rtol=1e-6)


@pytest.mark.parametrize("method", [conjugate_gradients, minres, neumann])
@pytest.mark.parametrize("hvp", ["reverse_over_reverse", "finite_differences"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_an_iteration_ends_at_rounding(method, hvp: str, dtype) -> None:
    """A smaller residual by recurrence is none of the solution, and may underflow to what looks like no curvature."""
    problem, vectors = NETWORK.to("cpu", dtype), vectors_of(len(HESSIAN), 1)
    found = method.ihvp(problem.loss, problem.theta, vectors.to(dtype), 1.0, hvp=hvp, tolerance=0.0)
    assert found.products < 1000
    assert residuals_of(HESSIAN, found.value, vectors, 1.0) < 1e3 * torch.finfo(dtype).eps ** (2 / 3)


@pytest.mark.parametrize("method", [conjugate_gradients, minres, neumann])
def test_what_is_not_finite_is_refused(method) -> None:
    with pytest.raises(ArithmeticError, match=r"the Hessian has entries that are not finite; look for operations"):
        of(method, torch.full((3, 3), torch.nan, dtype=torch.float64), vectors_of(3), 0.1)
    for vectors in (vectors_of(3) * torch.inf, vectors_of(3)[:, 0], vectors_of(3, 0), vectors_of(4)):
        with pytest.raises(ValueError, match=r"must be finite numbers \(3, m\), one vector a column"):
            of(method, matrix_of([3.0, 2.0, 1.0]), vectors, 0.1)


@pytest.mark.parametrize("size", [2, 5, 50])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_singular_matrix_has_no_direct_solution(size: int, dtype) -> None:
    """Its factors have pivots of the size of rounding, not of zero."""
    for zeros in {1, size - 1}:
        hessian = matrix_of([1.0] * (size - zeros) + [0.0] * zeros)
        with pytest.raises(
            ArithmeticError, match=r"singular with damping=0, to the precision of .* take another damping"
        ):
            dense.ihvp(hessian.to(dtype), vectors_of(size).to(dtype), 0.0)
        nearly = hessian + 100 * torch.finfo(dtype).eps * torch.eye(size, dtype=torch.float64)
        assert dense.ihvp(nearly.to(dtype), vectors_of(size).to(dtype), 0.0).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_products_are_counted(method, monkeypatch) -> None:
    seen = rows_multiplied(monkeypatch)
    assert of(method, matrix_of([3.0, 2.0, 1.0]), vectors_of(3), 0.1).products == sum(seen)


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_of_zeros(method) -> None:
    found = of(method, matrix_of([3.0, 2.0, 1.0]), torch.zeros(3, 1, dtype=torch.float64), 0.1)
    assert not found.value.any()
    assert not found.error.any()


@pytest.mark.parametrize("method", METHODS)
def test_bad_options_are_refused(method) -> None:
    for options, words in (
        ({"tolerance": -1.0}, "tolerance must be a number of at least 0; found -1.0"),
        ({"tolerance": float("nan")}, "tolerance must be a number of at least 0; found nan"),
        ({"most_products": 0}, "most_products must be a whole number of at least 1 here; found 0"),
        ({"most_products": 2.5}, "most_products must be a whole number of at least 1 here; found 2.5"),
        ({"hvp": "sideways"}, "sideways"),
    ):
        with pytest.raises(ValueError, match=words):
            of(method, matrix_of([3.0, 2.0, 1.0]), vectors_of(3), 0.1, **options)
    with pytest.raises(ValueError, match="scale must be a number above 0, or null; found 0"):
        of(neumann, matrix_of([3.0, 2.0, 1.0]), vectors_of(3), 0.1, scale=0)
    with pytest.raises(ValueError, match="solver must be one of minres, cg; found gmres"):
        of(scipy_krylov, matrix_of([3.0, 2.0, 1.0]), vectors_of(3), 0.1, solver="gmres")
