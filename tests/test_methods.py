"""Every method row on every problem, against closed forms and central differences."""

import inspect
import pkgutil
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from harness.problems import functions, networks
from methods import autograd_functional, create_graph_rows, double_loop, vmap_hvp
from tests.oracles import central_differences, distance

ROWS = {path.stem: OmegaConf.load(path) for path in (Path(__file__).parent.parent / "conf" / "method").glob("*.yaml")}
QUANTITIES = ("hessian", "diagonal", "block_diagonal", "hvp", "ggn")

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=3, depth=2, outputs=3, batch=12, activation="gelu"),
    "mlp_regression": lambda: networks.mlp(inputs=4, width=3, outputs=2, batch=12, task="regression"),
    "mlp_layernorm": lambda: networks.mlp(inputs=5, width=6, outputs=3, batch=16, norm="layer"),
    "cnn": lambda: networks.cnn(image=4, channels=2, outputs=3, batch=6),
    "logistic": lambda: functions.logistic(inputs=4, classes=3, batch=12),
    "logistic_without_bias": lambda: functions.logistic(inputs=4, classes=3, batch=12, bias=False),
    "quadratic": lambda: functions.quadratic(size=8),
    "rosenbrock": lambda: functions.rosenbrock(size=6),
    "normal_loglik": lambda: functions.normal_loglik(),
}

# What METHODS.md knows to fail: (row, problem) or (row, problem, quantity) -> words of the error, or an error exceeded.
KNOWN = {
    ("func_hessian", "mlp_layernorm"): 1e-2,  # the inner jacrev
    ("vmap_hvp", "mlp_regression"): "ZeroTensors are immutable",  # jvp of grad of mse_loss
    ("autograd_functional_forward", "mlp_regression"): "ZeroTensors are immutable",
    ("autograd_functional_forward", "quadratic"): "Shape mismatch",  # forward-mode misses many batching rules
    ("double_loop", "logistic_without_bias", "hessian"): 0.1,  # it finds the diagonal
    ("double_loop_no_create_graph", "logistic_without_bias"):
        "element 0 of tensors does not require grad and does not have a grad_fn",
}  # fmt: skip


def bound(row: str, quantity: str):
    """The row's function for a quantity (None where it has none) and its options."""
    options = OmegaConf.to_container(OmegaConf.merge(ROWS[row], {"quantity": quantity}), resolve=True)
    options.pop("quantity")
    path, _, name = options.pop("_target_").rpartition(".")
    return getattr(pkgutil.resolve_name(path), name, None), options


def offered(problem) -> dict:
    """What a method may ask a problem for, by name; as in the harness, without what the problem does not have."""
    names = "loss", "theta", "sizes", "model", "criterion", "inputs", "targets"
    return {name: getattr(problem, name) for name in names if getattr(problem, name) is not None}


def cells():
    """Every (row, problem, quantity) that there is."""
    for row in ROWS:
        for name, build in PROBLEMS.items():
            if row.startswith("double_loop") and name != "logistic_without_bias":
                continue  # for a network whose one parameter is a matrix
            for quantity in QUANTITIES:
                function, options = bound(row, quantity)
                known = {"vectors", *options, *offered(build())}
                if function is not None and set(inspect.signature(function).parameters) <= known:
                    yield row, name, quantity


CELLS = list(cells())


@cache
def truth(name: str, dtype: torch.dtype):
    """A problem in a dtype, its Hessian at the parameters and data as rounded to it, and that one's own tolerance."""
    problem = PROBLEMS[name]().to("cpu", dtype)
    exact = problem.to("cpu", torch.float64)
    differences = central_differences(exact)
    if exact.hessian is None:
        return problem, differences, 1e-8
    assert distance(exact.hessian(), differences) < 1e-8, "the closed form itself"
    return problem, exact.hessian(), 1e-12


def state(problem, vectors) -> list:
    """Copies of all that a method must leave as it found it."""
    model = [] if problem.model is None else list(problem.model.parameters())
    tensors = [problem.theta, vectors, *model]
    return [(t.detach().clone().numpy().tobytes(), t.requires_grad, t.grad) for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("row", "name", "quantity"), CELLS)
def test_a_row_is_right(row: str, name: str, quantity: str, dtype: torch.dtype) -> None:
    problem, hessian, tolerance = truth(name, dtype)
    vectors = torch.randn(len(hessian), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    exact = {"hessian": hessian, "diagonal": hessian.diagonal(), "hvp": hessian @ vectors.double()}[quantity]
    function, options = bound(row, quantity)
    arguments = {"vectors": vectors, **offered(problem)}
    asked = {key: arguments[key] for key in inspect.signature(function).parameters if key in arguments}
    known = KNOWN.get((row, name, quantity), KNOWN.get((row, name)))
    before = state(problem, vectors)

    if isinstance(known, str):
        with pytest.raises(RuntimeError, match=known):
            function(**asked, **options)
        return
    found = function(**asked, **options)
    assert (found.shape, found.dtype, found.requires_grad) == (exact.shape, dtype, False)
    assert state(problem, vectors) == before
    if known is None:
        assert distance(found, exact) <= (tolerance if dtype == torch.float64 else 1e-5)
    else:
        assert distance(found, exact) > known, "torch has mended this: take it out of KNOWN and of METHODS.md"


def test_no_row_and_no_known_failure_is_passed_over() -> None:
    assert {row for row, _, _ in CELLS} == set(ROWS)
    assert {key[:2] for key in KNOWN} <= {cell[:2] for cell in CELLS}
    assert {key for key in KNOWN if len(key) == 3} <= set(CELLS)


@pytest.mark.parametrize("row", ROWS)
def test_the_functions_of_a_method_are_quantities(row: str) -> None:
    """A function of another name would be no quantity that can be asked for, and nothing above would call it."""
    module = inspect.getmodule(bound(row, "hessian")[0])
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    assert {function.__name__ for function in own if not function.__name__.startswith("_")} <= set(QUANTITIES)


@pytest.mark.parametrize("composition", ["forward_over_reverse", "reverse_over_reverse"])
@pytest.mark.parametrize("chunk_size", [1, 7, "P", "P + 5", None])
def test_vmap_hvp_is_the_same_in_any_chunks(chunk_size: int | str | None, composition: str) -> None:
    problem = functions.logistic(inputs=4, classes=3, batch=12)  # P = 15: 7 leaves a last chunk of one row
    true, params = problem.hessian(), problem.theta.numel()
    size = {"P": params, "P + 5": params + 5}.get(chunk_size, chunk_size)
    assert distance(vmap_hvp.hessian(problem.loss, problem.theta, size, composition), true) < 1e-14
    vectors = torch.randn(params, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distance(vmap_hvp.hvp(problem.loss, problem.theta, vectors, size, composition), true @ vectors) < 1e-14


def test_vmap_hvp_refuses_bad_options() -> None:
    problem = functions.quadratic(size=2)
    for chunk_size in (0, -3):
        words = f"chunk_size must be a positive integer.*found {chunk_size}"
        with pytest.raises(ValueError, match=words):
            vmap_hvp.hessian(problem.loss, problem.theta, chunk_size)
        with pytest.raises(ValueError, match=words):
            vmap_hvp.hvp(problem.loss, problem.theta, torch.eye(2, dtype=torch.float64), chunk_size)
    words = "composition must be forward_over_reverse or reverse_over_reverse; found sideways"
    with pytest.raises(ValueError, match=words):
        vmap_hvp.hessian(problem.loss, problem.theta, 1, "sideways")
    with pytest.raises(ValueError, match=words):
        vmap_hvp.hvp(problem.loss, problem.theta, torch.eye(2, dtype=torch.float64), 1, "sideways")


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
