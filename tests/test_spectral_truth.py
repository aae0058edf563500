"""The truth of eigenvalues, traces, spectra and inverse products, whole and by products; verdicts on results."""

import pytest
import torch

from harness.problems import ProblemError, from_function, functions, networks
from harness.truth import results, spectral, true_values
from harness.truth.agreement import compare
from harness.truth.reference import reference
from methods import dense
from methods.estimates import Bounded, Estimate, Spectrum
from tests import spectra
from tests.judging import FULL, PROBED, by_autograd, judge

NETWORK = networks.mlp(inputs=4, width=6, outputs=3, batch=16)
HESSIAN = by_autograd(NETWORK)
PARAMS = len(HESSIAN)
ASCENDING = torch.linalg.eigvalsh(HESSIAN)
K, DAMPING = 10, 0.01  # the reference's defaults
VECTORS = torch.randn(PARAMS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DAMPED = HESSIAN + DAMPING * torch.eye(PARAMS, dtype=torch.float64)
SOLUTION = torch.linalg.solve(DAMPED, VECTORS)
LARGEST = ASCENDING[ASCENDING.abs().argsort(descending=True)]
EIGENVALUES = torch.cat([LARGEST[:K], ASCENDING[:1]])
ONES = torch.ones(K + 1, dtype=torch.float64)


def residuals(solution: torch.Tensor) -> torch.Tensor:
    return (DAMPED @ solution - VECTORS).norm(dim=0) / VECTORS.norm(dim=0)


@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_the_truth_is_that_of_the_whole_matrix(measure) -> None:
    def answer(quantity, vectors=None):
        found = reference(NETWORK, vectors, measure, 0, quantity).answer
        assert found is not None
        return found

    assert torch.allclose(answer("eigenvalues").value, EIGENVALUES, rtol=1e-10)
    assert torch.allclose(answer("trace").value, HESSIAN.trace(), rtol=1e-12)
    assert torch.allclose(answer("ihvp", VECTORS).value, SOLUTION, rtol=1e-8)


def test_the_lowest_eigenvalue_of_a_positive_definite_matrix_by_products() -> None:
    """It is then none of the largest ones, and is found from the highest one down."""
    matrix = torch.diag(torch.linspace(1, 3, 40, dtype=torch.float64))
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(40).double(), (matrix,))
    found = reference(problem, None, PROBED, 0, "eigenvalues", k=3).answer
    assert found is not None
    assert torch.allclose(found.value, torch.cat([matrix.diagonal().flip(0)[:3], torch.ones(1).double()]))


def test_a_spectrum_is_refused_beyond_the_whole_matrix_and_too_many_eigenvalues() -> None:
    with pytest.raises(ProblemError, match=r"takes all eigenvalues.*P=51.*raise measure.full_up_to=10"):
        reference(NETWORK, None, PROBED, 0, "spectrum")
    with pytest.raises(ProblemError, match="k=52 eigenvalues were asked for, and there are P=51"):
        reference(NETWORK, None, FULL, 0, "eigenvalues", k=52)


def test_a_trace_takes_all_entries(monkeypatch) -> None:
    monkeypatch.setattr(true_values, "DIAGONAL_S", -1.0)
    monkeypatch.setattr(true_values, "CHUNK", 20)
    with pytest.raises(ProblemError, match=r"all P=51 entries.*raise measure.full_up_to=10"):
        reference(NETWORK, None, PROBED, 0, "trace")
    assert reference(NETWORK, None, FULL, 0, "trace").answer is not None


def test_a_singular_system_is_named() -> None:
    damping = -float(ASCENDING[20])
    with pytest.raises(ProblemError, match=r"singular: H has the eigenvalue .*set another damping"):
        reference(NETWORK, VECTORS, FULL, 0, "ihvp", damping=damping)


def test_a_nearly_singular_system_is_not_judged_in_float32() -> None:
    damping = -float(ASCENDING[20]) + 1e-7
    truth = reference(NETWORK, VECTORS, FULL, 0, "ihvp", damping=damping)
    solution = torch.linalg.solve(HESSIAN + damping * torch.eye(PARAMS, dtype=torch.float64), VECTORS)
    seen = compare(solution.float(), "ihvp", truth)
    assert seen["status"] == "error"
    assert "nearly singular: rounding in float32 is amplified" in seen["message"]
    assert compare(solution, "ihvp", truth)["status"] == "ok"


def test_a_nearly_singular_system_does_not_excuse_another_one() -> None:
    """The tolerance is then large, but not that of the residual."""
    damping = -float(ASCENDING[20]) + 1e-4
    truth = reference(NETWORK, VECTORS, FULL, 0, "ihvp", damping=damping)
    solution = torch.linalg.solve(HESSIAN + damping * torch.eye(PARAMS, dtype=torch.float64), VECTORS)
    largest = torch.linalg.eigh(HESSIAN).eigenvectors[:, -1:]
    right, another = (
        compare((solution + share * solution.norm() * largest).float(), "ihvp", truth) for share in (0.0, 0.01)
    )
    assert right["status"] == "ok", right["message"]
    assert another["relative_error"] < another["tolerance"]
    assert (another["status"], "solves another system" in another["message"]) == ("wrong", True), another["message"]


@pytest.mark.parametrize("distance", [8e-5, 3e-5])
def test_a_nearly_singular_system_in_float32_is_judged_by_its_residual(distance: float) -> None:
    damping = -float(ASCENDING[20]) + distance
    truth = reference(NETWORK, VECTORS, FULL, 0, "ihvp", damping=damping)
    seen = compare(dense.ihvp(HESSIAN.float(), VECTORS.float(), damping), "ihvp", truth)
    assert seen["status"] == "ok", seen["message"]
    for wrong in (torch.zeros_like(VECTORS), 2 * SOLUTION, VECTORS, 1e6 * VECTORS):
        assert compare(wrong.float(), "ihvp", truth)["status"] == "wrong"


def test_a_spectrum_in_float32_that_one_eigenvalue_outweighs() -> None:
    """Rounding is relative to the largest eigenvalue, and errors are relative to the mean."""
    matrix = spectra.matrix_of([1e4, *torch.linspace(0.5, 1.5, 199).tolist()])
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(200).double(), (matrix,))
    truth = reference(problem, None, FULL, 0, "spectrum")
    seen = compare(dense.spectrum(matrix.float()), "spectrum", truth)
    assert seen["status"] == "ok", seen["message"]
    bulk = matrix - 0.5 * (matrix - spectra.matrix_of([1e4] + [0.0] * 199))  # the other eigenvalues halved
    assert compare(dense.spectrum(bulk.float()), "spectrum", truth)["status"] == "wrong"


def test_a_hessian_that_is_not_finite_has_no_answer() -> None:
    problem = from_function(lambda x: (x - 1).abs().sqrt().sum(), torch.ones(3).double(), ())
    with pytest.raises(ProblemError, match="not finite at this point"):
        spectral.of_matrix(by_autograd(problem), "eigenvalues", 2, None, 0.0, 0.0)


SPECTRUM = dense.spectrum(HESSIAN)
EXACT = {
    "eigenvalues": (EIGENVALUES, 1e-9),
    "trace": (HESSIAN.trace(), 1e-9),
    "spectrum": (SPECTRUM, 1e-9),
    "ihvp": (SOLUTION, 1e-9),
}


def off(result, share: float):
    """A result that is off by this share."""
    if not isinstance(result, Spectrum):
        return result * (1 + share)
    nodes = result.nodes * (1 + share)
    return Spectrum(
        nodes,
        result.weights,
        torch.stack([nodes.pow(power).mean() for power in range(1, 5)]),
        result.moment_errors,
    )


@pytest.mark.parametrize("measure", [FULL, PROBED])
@pytest.mark.parametrize("quantity", EXACT)
def test_exact_results(quantity: str, measure) -> None:
    if quantity == "spectrum" and measure is PROBED:
        return
    result, tolerance = EXACT[quantity]
    vectors = VECTORS if quantity == "ihvp" else None
    assert results.result_fault(result, quantity, NETWORK.theta, vectors, NETWORK.sizes, K) is None
    for share, status in ((0.0, "ok"), (0.1 * tolerance, "ok"), (100 * tolerance, "wrong"), (-2.0, "wrong")):
        seen = judge(off(result, share), NETWORK, measure, quantity, vectors)
        assert seen["status"] == status, seen["message"]
        assert seen["compared"] == 1.0
        if share == -2.0:
            assert seen["relative_error"] > 0.5


BOUNDED = {
    "honest": (EIGENVALUES + 1e-7, 2e-7 * ONES, "ok", ""),
    "too sure": (EIGENVALUES + 1e-7, 1e-9 * ONES, "wrong", "from every true one"),
    "one missed": (
        torch.cat([LARGEST[:3], LARGEST[4 : K + 1], ASCENDING[:1]]),
        1e-9 * ONES,
        "wrong",
        "an eigenvalue was missed: number 4",
    ),
    "one twice": (torch.cat([LARGEST[:1], LARGEST[: K - 1], ASCENDING[:1]]), 1e-9 * ONES, "wrong", "every true one"),
    "not the lowest": (
        torch.cat([LARGEST[:K], ASCENDING[1:2]]),
        1e-9 * ONES,
        "wrong",
        "an eigenvalue was missed: the lowest",
    ),
    "says nothing": (0 * EIGENVALUES, 9.0 * ONES, "wrong", "says nothing"),
    "negative": (EIGENVALUES, -ONES, "wrong", "negative"),
}


@pytest.mark.parametrize("measure", [FULL, PROBED])
@pytest.mark.parametrize(("value", "error", "status", "word"), BOUNDED.values(), ids=BOUNDED.keys())
def test_eigenvalues_with_residuals(value, error, status: str, word: str, measure) -> None:
    seen = judge(Bounded(value, error, 40), NETWORK, measure, "eigenvalues")
    assert (seen["status"], word in (seen["message"] or "")) == (status, True), seen["message"]
    assert seen["products"] == 40
    assert seen["covered"] == (status == "ok") or word == "says nothing"


NEARLY_EQUAL = torch.tensor([2.0, 1.9999, 1.0, 0.5, 0.3, -0.7], dtype=torch.float64)
NEAR = {
    "the nearer one has the larger residual": ((1.9999, 1.9995, -0.7), (1e-10, 1e-3, 1e-9), ""),
    "the residual covers what was missed": ((1.9999, 1.0, -0.7), (1e-9, 1.1, 1e-9), ""),
    "the residual does not": ((1.9999, 1.0, -0.7), (1e-9, 0.9, 1e-9), "was missed: number 2"),
    "missed with a small residual": (
        (2.0, 1.0, -0.7),
        (1e-9, 1e-9, 1e-9),
        "was missed: number 2 by magnitude is 1.9999",
    ),
    "one for two": ((2.0, 2.0, -0.7), (1e-9, 1e-9, 1e-9), "for which no other number stands"),
    "two within one residual": ((2.0, 2.0, -0.7), (1e-3, 1e-9, 1e-9), ""),
    "not in order": ((1.9999, 2.0, -0.7), (1e-9, 1e-9, 1e-9), "not in descending order"),
    "the lowest was missed": ((2.0, 1.9999, 0.3), (1e-9, 1e-9, 1e-9), "was missed: the lowest eigenvalue is -0.7"),
    "a residual covers the lowest": ((2.0, 1.9999, 0.3), (1e-9, 1e-9, 1.1), ""),
}


@pytest.mark.parametrize(("value", "residual", "word"), NEAR.values(), ids=NEAR.keys())
def test_nearly_equal_eigenvalues_and_missed_ones(value, residual, word: str) -> None:
    problem = from_function(lambda x, d: (d * x * x).sum() / 2, torch.ones(6).double(), (NEARLY_EQUAL,))
    truth = reference(problem, None, FULL, 0, "eigenvalues", k=2)
    result = Bounded(torch.tensor(value, dtype=torch.float64), torch.tensor(residual, dtype=torch.float64), 9)
    seen = compare(result, "eigenvalues", truth)
    assert (seen["status"], word in seen["message"]) == ("wrong" if word else "ok", True), seen["message"]
    assert seen["covered"] == (not word or "order" in word)


@pytest.mark.parametrize("k", [4, 37, 40])
@pytest.mark.parametrize(
    "eigenvalues", [[2.0] * 40, [0.0] * 37 + [3.0, -2.0, 1.0], [5.0] * 3 + [-5.0] * 2 + [1.0] * 35]
)
def test_repeated_eigenvalues_and_few_ranks_by_products(eigenvalues: list[float], k: int) -> None:
    """ARPACK has all but one eigenvalue at most, and does not start where a product is zero."""
    matrix = spectra.matrix_of(eigenvalues)
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(40).double(), (matrix,))
    truth = reference(problem, None, PROBED, 0, "eigenvalues", k=k)
    assert truth.directions is not None
    seen = compare(dense.eigenvalues(matrix, k), "eigenvalues", truth)
    assert seen["status"] == "ok", seen["message"]


def test_a_far_number_by_products_may_be_an_eigenvalue_beyond_the_known_ones() -> None:
    matrix = torch.diag(torch.linspace(1, 3, 40, dtype=torch.float64))
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(40).double(), (matrix,))
    truth = reference(problem, None, PROBED, 0, "eigenvalues", k=2)
    seen = compare(Bounded(torch.tensor([3.0, 1.5, 1.0]).double(), 1e-9 * ONES[:3], 9), "eigenvalues", truth)
    assert "an eigenvalue was missed: number 2" in seen["message"]


def test_opposite_eigenvalues_of_one_size_may_come_in_any_order() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, -2.0, 1.0, 0.5, 0.1], dtype=torch.float64))
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(6).double(), (matrix,))
    truth = reference(problem, None, FULL, 0, "eigenvalues", k=2)
    for second in (2.0, -2.0):
        assert compare(torch.tensor([3.0, second, -2.0]).double(), "eigenvalues", truth)["status"] == "ok"


@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_solutions_with_residuals(measure) -> None:
    near = SOLUTION + 1e-4 * torch.linalg.solve(DAMPED, VECTORS.flip(0))
    true = residuals(near)
    for value, stated, status, word in (
        (near, true, "ok", "residual"),
        (near, true / 10, "wrong", "not the residual"),
        (near, true * 10, "wrong", "not the residual"),
        (0 * near, torch.ones(2).double(), "wrong", "zeros have a residual of 1"),
        (SOLUTION, 1e-13 * torch.ones(2).double(), "ok", ""),
        (near, -true, "wrong", "negative"),
    ):
        result = Bounded(value, stated, 7)
        assert results.result_fault(result, "ihvp", NETWORK.theta, VECTORS) is None
        seen = judge(result, NETWORK, measure, "ihvp", VECTORS)
        assert (seen["status"], word in seen["message"]) == (status, True), seen["message"]
        assert seen["relative_error"] == pytest.approx(float((value - SOLUTION).norm() / SOLUTION.norm()), abs=1e-9)


def test_estimates_of_a_trace() -> None:
    true, one = HESSIAN.trace(), torch.ones((), dtype=torch.float64)
    size = true.abs()
    for value, error, probes, status, covered in (
        (true + 0.1 * size, 0.1 * size, 10, "ok", True),
        (true + 0.3 * size, 0.1 * size, 10, "ok", False),  # off by 3 standard errors of ten probes
        (true + 0.6 * size, 0.1 * size, 1000, "wrong", False),
        (true + 0.6 * size, 0.1 * size, 3, "ok", False),  # three probes may be that far off
        (0 * true, 1e6 * one, 10, "wrong", True),
        (true, -0.1 * size, 10, "wrong", False),
        (true, 0 * one, 10, "ok", True),
        (0 * true, 1e-4 * size, 2, "wrong", False),  # Student's t of two probes would allow it
    ):
        seen = judge(Estimate(value, error, probes, 60), NETWORK, quantity="trace")
        assert (seen["status"], seen["covered"]) == (status, covered), seen["message"]
        assert (seen["products"], seen["estimate_probes"]) == (60, probes)


def test_a_trace_that_cancels() -> None:
    """Errors are then relative to the terms, or nothing would be right."""
    matrix = functions.quadratic(size=20).hessian()
    matrix = matrix - matrix.trace() / 20 * torch.eye(20).double()
    problem = from_function(lambda x, A: x @ A @ x / 2, torch.ones(20).double(), (matrix,))
    seen = judge(torch.tensor(1e-14).double(), problem, quantity="trace")
    assert seen["status"] == "ok", seen["message"]
    assert judge(torch.tensor(1e-4).double(), problem, quantity="trace")["status"] == "wrong"


def test_spectra_that_are_none() -> None:
    nodes, weights, moments, errors, _ = SPECTRUM
    spread = torch.tensor([0.1, 0.1, 0.1, 0.1]).double() * moments.abs()
    for result, word in (
        (Spectrum(nodes.flip(0), weights, moments, errors), "ascending order"),
        (Spectrum(nodes, 2 * weights, moments, errors), "have the sum 2"),
        (Spectrum(nodes, weights, 1.1 * moments, spread, 9), "not those of the nodes"),
        (off(SPECTRUM, 0.5)._replace(moment_errors=0.01 * spread), "standard errors off"),
        (Spectrum(nodes, weights, moments, 1e6 * spread, 9), "says nothing"),
        (Spectrum(nodes, weights, moments, -spread, 9), "negative"),
        (Spectrum(0 * nodes, weights, 0 * moments, moments.abs(), 9), "could as well be all zeros"),
        (SPECTRUM._replace(moments=moments * (1 + 1e-6)), "not exact"),
    ):
        seen = judge(result, NETWORK, quantity="spectrum")
        assert (seen["status"], word in seen["message"]) == ("wrong", True), seen["message"]


@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_a_linear_loss(measure) -> None:
    """All eigenvalues are zero, and the product with the inverse is v / damping."""
    problem = from_function(lambda x, c: x @ c, torch.ones(20).double(), (torch.arange(20).double(),))
    vectors = torch.ones(20, 1, dtype=torch.float64)
    zeros = torch.zeros(11, dtype=torch.float64)
    assert judge(zeros, problem, measure, "eigenvalues")["status"] == "ok"
    assert judge(zeros + 1, problem, measure, "eigenvalues")["status"] == "wrong"
    assert judge(zeros[0], problem, measure, "trace")["status"] == "ok"
    assert judge(vectors / DAMPING, problem, measure, "ihvp", vectors)["status"] == "ok"
    assert judge(vectors, problem, measure, "ihvp", vectors)["status"] == "wrong"


def test_other_things_are_refused_in_plain_words() -> None:
    theta = NETWORK.theta
    for result, quantity, word in (
        (ONES, "spectrum", "returned Tensor; spectrum is a Spectrum"),
        (SPECTRUM, "trace", "returned Spectrum; trace is no Spectrum"),
        (EIGENVALUES[:-1], "eigenvalues", "has shape (11,)"),
        (Estimate(EIGENVALUES, EIGENVALUES, 3), "eigenvalues", "returned an estimate"),
        (Bounded(EIGENVALUES, EIGENVALUES[:3], 3), "eigenvalues", "has shape (11,)"),
        (Bounded(EIGENVALUES, EIGENVALUES, -1), "eigenvalues", "-1 products"),
        (SPECTRUM._replace(weights=ONES), "spectrum", "has shape (51,)"),
        (Bounded(HESSIAN, HESSIAN, 3), "block_diagonal", "returned a Bounded"),
        (HESSIAN.diagonal(), "trace", "has shape ()"),
        (SPECTRUM._replace(nodes=ONES[0], weights=ONES[0]), "spectrum", "no tensor (m,)"),
        (SPECTRUM._replace(nodes=None), "spectrum", "no tensor (m,)"),
        (SPECTRUM._replace(nodes=ONES[:0], weights=ONES[:0]), "spectrum", "without nodes"),
    ):
        fault = results.result_fault(result, quantity, theta, None, NETWORK.sizes, K)
        assert word in str(fault)


REVERSE = {"composition": "reverse_over_reverse"}


@pytest.mark.parametrize(
    ("quantity", "method", "options"),
    [
        pytest.param("eigenvalues", "vmap_hvp", REVERSE, marks=pytest.mark.slow),
        pytest.param("ihvp", "vmap_hvp", REVERSE, marks=pytest.mark.slow),
        ("spectrum", "lanczos_quadrature", {"probes": 4, "steps": 6}),
        ("trace", "xtrace", {"products": 20}),
        pytest.param("hvp", "finite_differences", {}, marks=pytest.mark.slow),
    ],
)
def test_records_of_the_new_quantities(quantity: str, method: str, options, run) -> None:
    """A whole cell of each: no result is taken for a cache, or for another one than that which was checked."""
    record = run(target=f"methods.{method}.{quantity}", quantity=quantity, method_options=options, k=4)
    assert record["status"] == "ok", record["message"]
    assert record["relative_error"] is not None
    assert (record["products"] is None) == (method == "vmap_hvp")


def test_a_sum_over_batches_has_no_eigenvalues(run) -> None:
    job = {"target": "methods.vmap_hvp.eigenvalues", "quantity": "eigenvalues", "method_options": {}, "k": 2}
    options = {"width": 3, "inputs": 3, "outputs": 2, "batch": 8, "batches": 2}
    record = run(problem_options=options, **job)
    assert record["status"] == "unsupported"
    assert "no sum over batches; set problem.batches=null" in record["message"]


def test_dense_methods_refuse_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="k=4 eigenvalues of 3 parameters"):
        dense.eigenvalues(torch.eye(3), 4)
    with pytest.raises(ArithmeticError, match=r"singular with damping=-1.*take another damping"):
        dense.ihvp(torch.eye(3), torch.ones(3, 1), -1.0)
