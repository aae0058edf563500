"""Other libraries' eigenvalues, traces, spectra and inverse products, against the whole matrix."""

import importlib
import math

import pytest
import torch
from scipy import stats

from harness.problems import networks
from methods.densities import mean_spectrum, runs_and_steps
from methods.estimates import Bounded, Estimate, Spectrum
from tests.oracles import central_differences, distance
from tests.rows import installed
from tests.spectra import extremes, nearest

NETWORK = networks.mlp(inputs=5, width=8, outputs=3, batch=24)
HESSIAN = central_differences(NETWORK)
VECTORS = torch.randn(len(HESSIAN), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TRACES = ("curvlinops_traces", "pyhessian", "hessian_eigenthings_estimates")
SPECTRA = ("curvlinops_spectra", "hessian_eigenthings_estimates")
EIGENVALUES = ("pyhessian", "hessian_eigenthings_estimates")

pytestmark = pytest.mark.filterwarnings("ignore:Using backward", "ignore:CG terminated")


def peer(name: str):
    row = {"curvlinops_traces": "curvlinops", "curvlinops_spectra": "curvlinops", "curvlinops_inverses": "curvlinops"}
    if not installed(row.get(name, name)):
        pytest.skip("the library is not installed")
    return importlib.import_module(f"methods.peers.{name}")


def network(dtype: torch.dtype = torch.float64):
    problem = NETWORK.to("cpu", dtype)
    return problem.model, problem.criterion, problem.inputs, problem.targets


@pytest.mark.parametrize("name", EIGENVALUES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_eigenvalues(name: str, dtype: torch.dtype) -> None:
    found = peer(name).eigenvalues(*network(dtype), 3, products=800)
    true = extremes(HESSIAN, 3)
    assert isinstance(found, Bounded)
    assert found.value.dtype == found.error.dtype == dtype
    assert not found.value.requires_grad
    assert (nearest(found.value, HESSIAN) <= found.error + 1e-11).all()
    assert torch.allclose(found.value.double(), true, atol=1e-2)


@pytest.mark.parametrize("name", EIGENVALUES)
def test_eigenvalues_that_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=f"set k to 1..{len(HESSIAN)}"):
        peer(name).eigenvalues(*network(), len(HESSIAN) + 1)


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_traces(name: str, dtype: torch.dtype) -> None:
    found = peer(name).trace(*network(dtype), products=120)
    assert isinstance(found, Estimate)
    assert found.value.dtype == found.standard_error.dtype == dtype
    assert found.value.shape == found.standard_error.shape == ()
    assert abs(float(found.value) - float(HESSIAN.trace())) <= 5 * float(found.standard_error)
    assert found.products in (112, 120)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["hutchinson", "hutch++", "xtrace"])
def test_intervals_of_curvlinops_traces_hold_the_truth(estimator: str) -> None:
    """At 95 %, by Student's t of the repeats."""
    trace, limit = peer("curvlinops_traces").trace, float(stats.t.isf(0.025, 7))
    runs = [trace(*network(), estimator=estimator, products=48, seed=seed) for seed in range(100)]
    held = sum(abs(float(run.value - HESSIAN.trace())) <= limit * float(run.standard_error) for run in runs)
    assert 90 <= held <= 99


def test_a_negative_trace_by_pyhessian_takes_all_products() -> None:
    """Its own tolerance would end it after two."""
    model, criterion, inputs, targets = network()
    found = peer("pyhessian").trace(model, lambda outputs, targets: -criterion(outputs, targets), inputs, targets, 50)
    assert found.probes == found.products == 50
    assert abs(float(found.value) + float(HESSIAN.trace())) <= 5 * float(found.standard_error)


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra(name: str) -> None:
    found = peer(name).spectrum(*network(), products=160)
    assert isinstance(found, Spectrum)
    assert found.products == 160
    assert (found.nodes.diff() >= 0).all()
    assert float(found.weights.sum()) == pytest.approx(1)
    powers = [torch.linalg.matrix_power(HESSIAN, power).trace() / len(HESSIAN) for power in range(1, 5)]
    assert ((found.moments - torch.stack(powers)).abs() <= 6 * found.moment_errors).all()
    with pytest.raises(ValueError, match="products must be a whole number of at least 16; found 15"):
        peer(name).spectrum(*network(), products=15)


@pytest.mark.parametrize("inverse", ["cg", "lsmr", "neumann"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_inverse_products_of_curvlinops(inverse: str, dtype: torch.dtype) -> None:
    found = peer("curvlinops_inverses").ihvp(
        *network(dtype), VECTORS.to(dtype), 1.0, inverse=inverse, tolerance=1e-7, most_products=200
    )
    true = torch.linalg.solve(HESSIAN + torch.eye(len(HESSIAN), dtype=torch.float64), VECTORS)
    assert distance(found.value, true) < 1e-5
    left = (HESSIAN @ found.value.double() + found.value.double() - VECTORS).norm(dim=0) / VECTORS.norm(dim=0)
    assert torch.allclose(found.error.double(), left, rtol=0.3, atol=1e-6)


def test_inverse_products_of_curvlinops_where_the_matrix_is_indefinite() -> None:
    """Its conjugate gradients end anywhere, and the residual shows it; the series diverges; LSMR solves it."""
    ihvp = peer("curvlinops_inverses").ihvp
    assert ihvp(*network(), VECTORS, 0.01, inverse="cg", most_products=50).error.max() > 0.1
    with pytest.raises(ArithmeticError, match=r"series diverges: after 200 terms .* a method for indefinite matrices"):
        ihvp(*network(), VECTORS, 0.01, inverse="neumann", most_products=200)
    assert ihvp(*network(), VECTORS, 0.01, inverse="lsmr", most_products=1000).error.max() < 0.1


def test_what_the_libraries_are_not_given() -> None:
    function = lambda outputs, targets: outputs.square().mean()  # noqa: E731
    model, _, inputs, targets = network()
    for name in ("curvlinops_traces", "curvlinops_spectra"):
        quantity = getattr(peer(name), "trace" if name == "curvlinops_traces" else "spectrum")
        with pytest.raises(NotImplementedError, match="curvlinops needs the loss as a module"):
            quantity(model, function, inputs, targets)
    with pytest.raises(ValueError, match="estimator must be one of hutchinson, hutch\\+\\+, xtrace; found best"):
        peer("curvlinops_traces").trace(*network(), estimator="best")
    with pytest.raises(ValueError, match="repeats must be a whole number of at least 2; found 1"):
        peer("curvlinops_traces").trace(*network(), repeats=1)
    with pytest.raises(ValueError, match=f"fewer than the {len(HESSIAN)} parameters: set products lower"):
        peer("curvlinops_traces").trace(*network(), products=16 * len(HESSIAN))
    with pytest.raises(ValueError, match="inverse must be one of cg, lsmr, neumann; found best"):
        peer("curvlinops_inverses").ihvp(*network(), VECTORS, 1.0, inverse="best")
    unused = torch.nn.Sequential(model, torch.nn.Identity())
    unused.register_parameter("unused", torch.nn.Parameter(torch.ones(2, dtype=torch.float64)))
    with pytest.raises(NotImplementedError, match="PyHessian needs a gradient of every parameter"):
        peer("pyhessian").trace(unused, *network()[1:])


@pytest.mark.parametrize(
    ("name", "quantity"), [("pyhessian", "trace"), ("curvlinops_traces", "trace"), ("curvlinops_spectra", "spectrum")]
)
def test_what_a_library_changes_is_put_back(name: str, quantity: str) -> None:
    """PyHessian leaves gradients and evaluation mode, and both libraries draw from torch's own generator."""
    arguments = network()
    arguments[0].train()
    before = torch.random.get_rng_state()
    first = getattr(peer(name), quantity)(*arguments, products=64, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert arguments[0].training
    assert all(parameter.grad is None for parameter in arguments[0].parameters())
    again = getattr(peer(name), quantity)(*arguments, products=64, seed=3)
    other = getattr(peer(name), quantity)(*arguments, products=64, seed=4)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_the_mean_of_densities() -> None:
    """Of two runs, one of them with a node less."""
    nodes = torch.tensor([[1.0, 3.0], [2.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64)
    found = mean_spectrum(nodes, weights, 4)
    assert found.nodes.tolist() == [0, 1, 2, 3]
    assert found.weights.tolist() == [0, 0.125, 0.5, 0.375]
    assert found.moments.tolist() == [2.25, 5.5, 14.25, 38.5]
    assert found.moment_errors[0] == pytest.approx(math.sqrt(0.125 / 2))  # of 2.5 and 2, whose variance is 1/8


def test_runs_and_steps() -> None:
    assert runs_and_steps(512, 1000, 32) == (16, 32)
    assert runs_and_steps(64, 1000, 32) == (8, 8)
    assert runs_and_steps(512, 20, 32) == (16, 20)
