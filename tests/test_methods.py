"""Every method row on every problem, against closed forms and central differences.

Rows of peers are tested where the peer is installed (`pip install '.[peers,jax]'`), as CI does.
"""

import importlib
import inspect
import itertools
import os
import subprocess
import sys
from functools import cache

import pytest
import scipy
import torch

from harness.job import QUANTITIES
from harness.problems import functions, networks, subset, transformers
from harness.truth import differences, results
from methods import autograd_functional, create_graph_rows, double_loop, vmap_hvp
from methods.estimates import Bounded, Estimate, Spectrum
from tests.conftest import ROOT
from tests.honesty import error, is_honest
from tests.oracles import central_differences, distance, jacobian_by_differences
from tests.rows import PER_SAMPLE, ROWS, SHARDED, TARGETS, bound, installed, target
from tests.test_zoo import case

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=3, depth=2, outputs=3, batch=12, activation="gelu"),
    "mlp_regression": lambda: networks.mlp(inputs=4, width=3, outputs=2, batch=12, task="regression"),
    "mlp_layernorm": lambda: networks.mlp(inputs=5, width=6, outputs=3, batch=16, norm="layer"),
    "cnn": lambda: networks.cnn(image=4, channels=2, outputs=3, batch=6),
    "logistic": lambda: functions.logistic(inputs=4, classes=3, batch=12),
    "logistic_without_bias": lambda: functions.logistic(inputs=4, classes=3, batch=12, bias=False),
    "quadratic": lambda: functions.quadratic(size=8),
    "lenet5": lambda: networks.lenet5(image=12, channels=(1, 2), widths=(3, 3), outputs=2, batch=3),
    "transformer": lambda: transformers.transformer(
        seed=1, vocabulary=3, width=4, length=3, expansion=1, outputs=3, causal=True, batch=8
    ),
    "bert": lambda: transformers.bert(
        vocabulary=3, width=4, heads=2, length=3, blocks=1, expansion=1, attention="sdpa", batch=4
    ),
    "rosenbrock": lambda: functions.rosenbrock(size=6),
    "normal_loglik": lambda: functions.normal_loglik(),
}

DERIVED = ("eigenvalues", "trace", "spectrum", "ihvp")  # quantities that follow from the Hessian
K, DAMPING = 2, 0.01  # of eigenvalues and inverse products; no problem has fewer parameters

# What is known to fail (METHODS.md): (row, problem) or (row, problem, quantity) -> words of the error, or an error
# exceeded.
KNOWN = {
    ("vmap_hvp", "mlp_regression"): "ZeroTensors are immutable",  # jvp of grad of mse_loss
    ("vmap_hvp_auto", "mlp_regression"): "ZeroTensors are immutable",
    ("jacfwd_grad", "mlp_regression"): "ZeroTensors are immutable",
    ("autograd_functional_forward", "mlp_regression"): "ZeroTensors are immutable",
    ("autograd_functional_forward", "quadratic"): "Shape mismatch",  # forward-mode misses many batching rules
    ("backpack", "lenet5"): "expected scalar type Double but found Float",  # its rule for average pooling
    ("double_loop", "logistic_without_bias", "hessian"): 0.1,  # it finds the diagonal
    (
        "double_loop_no_create_graph",
        "logistic_without_bias",
    ): "element 0 of tensors does not require grad and does not have a grad_fn",
}
# torch.func.linearize replays a view on memory laid out otherwise.
KNOWN |= {("vmap_hvp_linearize", name): "view size is not compatible" for name in ("lenet5", "transformer")}
# An inner jacrev or jacfwd, or the gradient of a jvp, under an affine LayerNorm.
for name in ("mlp_layernorm", "transformer", "bert"):
    KNOWN |= {
        (row, name): 1e-3
        for row in (
            "func_hessian",
            "jacfwd_jacfwd",
            "jacfwd_jacrev",
            "jacrev_jacfwd",
            "jacrev_jacrev",
            "laplace",
            "vmap_hvp_reverse_over_forward",
        )
    }
    KNOWN |= {
        (row, name, quantity): 1e-3 for row in ("vmap_hvp_jacrev", "curvlinops") for quantity in ("hessian", "hvp")
    }
# torch.func.linearize ends the process on this one (test_launch has it as a crashed cell).
# What a peer says it has no rule for.
REFUSES = {("backpack", name) for name in ("mlp", "mlp_layernorm", "transformer", "bert")}
REFUSES |= {
    (row, "transformer") for row in ROWS if row.startswith(("curvlinops_k", "curvlinops_e", "laplace_k", "nngeometry"))
}
REFUSES -= {("curvlinops_empirical_fisher", "transformer")}
REFUSES |= {("curvlinops_kfoc", "mlp")}  # curvlinops 3.0.1 has none
CRASHES = {("vmap_hvp_linearize", "mlp_regression")}
# Rows that take products until they converge, or as many as an option says. Inverse products are of a convex problem.
ITERATIVE = {
    row for row in ROWS if "most_products" in ROWS[row] or ("products" in ROWS[row] and ".peers." in TARGETS[row])
}


APPROXIMATIONS = {"methods.peers.nngeometry"} | {
    f"methods.{module}"
    for module in (
        "approximations.block_diagonal",
        "approximations.diagonal",
        "approximations.empirical_fisher",
        "approximations.ggn",
        "approximations.monte_carlo_fisher",
        "peers.curvlinops_approximations",
        "peers.laplace_approximations",
    )
}  # modules of tests/test_approximations.py


def offered(problem) -> dict:
    """What a method may ask a problem for, by name; as in the harness, without what the problem does not have."""
    names = "loss", "theta", "sizes", "model", "criterion", "inputs", "targets"
    return {name: getattr(problem, name) for name in names if getattr(problem, name) is not None}


def cells():
    """Every (row, problem, quantity) that there is, less those that would take minutes."""
    for row, (name, build) in itertools.product(filter(installed, ROWS), PROBLEMS.items()):
        problem = build()
        if target(row, "hessian")[0] in APPROXIMATIONS and name not in ("mlp", "transformer"):
            continue
        if row.startswith("double_loop") and name != "logistic_without_bias":
            continue  # for a network whose one parameter is a matrix
        if row == "naive_loop" and problem.theta.numel() > 100:
            continue
        if (row.endswith("_compiled") or row == "jax_eager") and name != "mlp":
            continue  # tens of seconds of compilation, or of tracing
        if row in ("jax", "vmap_hvp_linearize") and name not in ("mlp", "mlp_regression", "lenet5", "transformer"):
            continue  # seconds each
        for quantity in QUANTITIES:
            if row in ITERATIVE and name != ("logistic" if quantity == "ihvp" else "mlp"):
                continue  # hundreds of products each; they have tests of their own
            if row == "finite_differences" and quantity != "hvp" and problem.theta.numel() > 100:
                continue  # four gradients a parameter
            if row.startswith("vmap_hvp_") and quantity in DERIVED:
                continue  # those of vmap_hvp, of a Hessian or diagonal that is tested itself
            function, options = bound(row, quantity)
            known = {"vectors", "k", "damping", *options, *offered(problem)}
            if function is not None and required(function) <= known:
                yield row, name, quantity


def required(function) -> set[str]:
    """The names of its parameters that have no default."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is parameter.empty}


CELLS = list(cells())
SINGLE = [cell for cell in CELLS if cell[1] in ("mlp", "transformer")]  # tried in float32 too


@cache
def truth(name: str, dtype: torch.dtype):
    """A problem in a dtype, its Hessian at the parameters and data as rounded to it, and that one's own tolerance."""
    problem = PROBLEMS[name]().to("cpu", dtype)
    exact = problem.to("cpu", torch.float64)
    differences = central_differences(exact)
    if exact.hessian is None:
        return problem, differences, 1e-9
    assert distance(exact.hessian(), differences) < 1e-8, "the closed form itself"
    return problem, exact.hessian(), 1e-12


@cache
def true_ggn(name: str, dtype: torch.dtype) -> torch.Tensor:
    """The GGN with the Jacobian of the outputs, and the loss's Hessian in them, both by central differences."""
    problem = PROBLEMS[name]().to("cpu", dtype).to("cpu", torch.float64)
    outputs = problem.outputs(problem.theta).detach()
    jacobian = jacobian_by_differences(lambda theta: problem.outputs(theta).detach().flatten(), problem.theta)

    def slope(flat: torch.Tensor) -> torch.Tensor:
        at = flat.view_as(outputs).requires_grad_()
        return torch.autograd.grad(problem.criterion(at, problem.targets), at)[0].flatten()

    curvature = jacobian_by_differences(slope, outputs.flatten())
    return jacobian.T @ curvature @ jacobian


def expected(name: str, quantity: str, dtype: torch.dtype, vectors: torch.Tensor):
    """What a row should return, out of the Hessian: the same one for every quantity."""
    problem, hessian, _ = truth(name, dtype)
    if quantity == "ggn":
        return true_ggn(name, dtype)
    if quantity == "block_diagonal":
        starts = [sum(problem.sizes[:place]) for place in range(len(problem.sizes))]
        return tuple(hessian[s : s + size, s : s + size] for s, size in zip(starts, problem.sizes, strict=True))
    if quantity == "eigenvalues":
        ascending = torch.linalg.eigvalsh(hessian)
        return torch.cat([ascending[ascending.abs().argsort(descending=True)[:K]], ascending[:1]])
    if quantity == "spectrum":
        return torch.stack([torch.linalg.matrix_power(hessian, power).trace() / len(hessian) for power in range(1, 5)])
    if quantity == "ihvp":
        return torch.linalg.solve(hessian + DAMPING * torch.eye(len(hessian)).double(), vectors.double())
    return {
        "hessian": hessian,
        "diagonal": hessian.diagonal(),
        "hvp": hessian @ vectors.double(),
        "trace": hessian.trace(),
    }[quantity]


def state(problem, vectors) -> list:
    """Copies of all that a method must leave as it found it."""
    model = [] if problem.model is None else list(problem.model.parameters())
    tensors = [problem.theta, vectors, *model]
    return [(t.detach().clone().numpy().tobytes(), t.requires_grad, t.grad) for t in tensors]


@pytest.mark.parametrize(
    ("row", "name", "quantity", "dtype"),
    [(*cell, torch.float64) for cell in CELLS] + [(*cell, torch.float32) for cell in SINGLE],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_a_row_is_right(row: str, name: str, quantity: str, dtype: torch.dtype) -> None:
    problem, hessian, tolerance = truth(name, dtype)
    vectors = torch.randn(len(hessian), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    exact = expected(name, quantity, dtype, vectors)
    function, options = bound(row, quantity)
    arguments = {"vectors": vectors, "k": K, "damping": DAMPING, **offered(problem)}
    asked = {key: arguments[key] for key in inspect.signature(function).parameters if key in arguments}
    known = KNOWN.get((row, name, quantity), KNOWN.get((row, name)))
    before = state(problem, vectors)

    if (row, name) in CRASHES:
        pytest.skip("it would end this process")
    if isinstance(known, str) or (row.endswith("_compiled") and quantity == "block_diagonal"):
        with pytest.raises((RuntimeError, NotImplementedError), match=known or "compile=true is not offered"):
            function(**asked, **options)
        return
    if (row, name) in REFUSES:
        with pytest.raises(NotImplementedError):
            function(**asked, **options)
        return
    found = function(**asked, **options)
    tolerance = max(tolerance, 1e-9) if quantity == "ggn" else tolerance
    assert state(problem, vectors) == before
    assert results.result_fault(found, quantity, problem.theta, vectors, problem.sizes, K) is None
    if results.is_approximation(found):
        return  # tests/test_approximations.py
    question = exact, quantity, hessian, vectors, DAMPING
    exactly = not isinstance(found, Estimate | Bounded) and not (isinstance(found, Spectrum) and found.products)
    limit = tolerance if dtype == torch.float64 else 1e-5
    if not exactly:
        assert is_honest(found, *question, limit)
    elif known is None:
        assert error(found, *question) <= limit
    else:
        assert error(found, *question) > known, "torch has mended this: take it out of KNOWN and of METHODS.md"


def test_no_row_and_no_known_failure_is_passed_over() -> None:
    here = set(filter(installed, ROWS)) - SHARDED - PER_SAMPLE
    assert {row for row, _, _ in CELLS} == here
    known = {key for key in KNOWN if key[0] in here}
    assert {key[:2] for key in known} <= {cell[:2] for cell in CELLS}
    assert {key for key in known if len(key) == 3} <= set(CELLS)


@pytest.mark.parametrize("row", ROWS)
def test_the_functions_of_a_method_are_quantities(row: str) -> None:
    """A function of another name would be no quantity that can be asked for, and nothing above would call it."""
    if not installed(row):
        pytest.skip("the peer is not installed")
    module = importlib.import_module(target(row, "hessian")[0])
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    public = {function.__name__ for function in own if function.__name__[0] != "_"}
    names = {name.removesuffix("_over_batches").removesuffix("_rows") for name in public}
    assert names - {"explain", "product"} <= set(QUANTITIES)  # `product` is what `methods.products` multiplies with


def test_the_version_of_a_peer_is_recorded(run) -> None:
    """So that `resume` and a comparison see that it was upgraded."""
    assert run()["packages"] is None
    assert run(target="tests.method_with_another_package.hessian")["packages"] == f"scipy {scipy.__version__}"


@pytest.mark.parametrize("composition", vmap_hvp.COMPOSITIONS)
@pytest.mark.parametrize("chunk_size", [1, 7, "P", "P + 5", None])
def test_vmap_hvp_is_the_same_in_any_chunks(chunk_size: int | str | None, composition: str) -> None:
    problem = functions.logistic(inputs=4, classes=3, batch=12)  # P = 15: 7 leaves a last chunk of one row
    true, params = problem.hessian(), problem.theta.numel()
    size = {"P": params, "P + 5": params + 5}.get(chunk_size, chunk_size)
    assert distance(vmap_hvp.hessian(problem.loss, problem.theta, composition, size), true) < 1e-14
    vectors = torch.randn(params, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distance(vmap_hvp.hvp(problem.loss, problem.theta, vectors, composition, size), true @ vectors) < 1e-14


def test_vmap_hvp_refuses_bad_options() -> None:
    problem = functions.quadratic(size=2)
    vectors = torch.eye(2, dtype=torch.float64)
    for options, words in (
        ({"chunk_size": 0}, "chunk_size must be a positive integer.*found 0"),
        ({"chunk_size": -3}, "chunk_size must be a positive integer.*found -3"),
        ({"chunk_size": "all"}, "chunk_size must be a positive integer.*found all"),
        ({"chunk_size": "auto", "memory_budget_mb": 0}, "memory_budget_mb must be above 0; found 0"),
        ({"composition": "sideways"}, "composition must be one of forward_over_reverse, .*; found sideways"),
    ):
        with pytest.raises(ValueError, match=words):
            vmap_hvp.hessian(problem.loss, problem.theta, **options)
        with pytest.raises(ValueError, match=words):
            vmap_hvp.hvp(problem.loss, problem.theta, vectors, **options)


def test_autograd_functional_is_zero_for_a_loss_that_ignores_its_argument() -> None:
    """The silent trap that its docstring names (pytorch issue 50138)."""
    closed_over = torch.ones(3, requires_grad=True)
    found = autograd_functional.hessian(lambda theta: (closed_over**2).sum(), torch.ones(3))
    assert torch.equal(found, torch.zeros(3, 3))


def test_the_double_loop_finds_the_diagonal() -> None:
    problem = functions.logistic(bias=False)
    network = problem.model, problem.criterion, problem.inputs, problem.targets
    true = problem.hessian()
    assert distance(double_loop.diagonal(*network), true.diagonal()) < 1e-12
    as_hessian = double_loop.hessian(*network)
    assert torch.equal(as_hessian, double_loop.diagonal(*network).diag())
    assert distance(as_hessian, true) > 0.1
    with pytest.raises(RuntimeError, match="element 0 of tensors does not require grad and does not have a grad_fn"):
        double_loop.hessian(*network, create_graph=False)


def test_a_method_works_on_a_tuple_through_ravel() -> None:
    problem = functions.normal_loglik()
    assert distance(create_graph_rows.hessian(problem.loss, problem.theta), problem.hessian()) < 1e-12


@pytest.mark.skipif(not installed("jax"), reason="needs jax")
@pytest.mark.parametrize("name", ["cholesky", "inverse", "max_pool1d"])
def test_jax_traces_at_the_point_itself(name) -> None:
    """A matrix of zeros has no inverse; a maximum's place is traced though nothing uses it."""
    from methods.peers import jax

    problem = case(name)
    truth, _ = differences.hessian(problem.loss, problem.theta)
    assert distance(jax.hessian(problem.loss, problem.theta, jit=False), truth) < 1e-7


def test_jax_leaves_the_memory_of_a_gpu_to_torch(tmp_path) -> None:
    """The setting counts only if it is there when JAX is imported: here in its place a module that ends the process."""
    (tmp_path / "jax.py").write_text("import os\nprint(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])\nraise SystemExit")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XLA")}
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    command = [sys.executable, "-c", "import methods.peers.jax"]
    seen = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert seen.stdout.strip() == "false", seen.stderr


@pytest.mark.skipif(not installed("jax"), reason="needs jax")
def test_jax_on_a_subset_of_the_parameters() -> None:
    from methods.peers import jax

    problem = subset(PROBLEMS["mlp"](), 7, seed=0)
    assert distance(jax.hessian(problem.loss, problem.theta, jit=False), central_differences(problem)) < 1e-7
