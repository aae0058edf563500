"""Every method row on every problem, against closed forms and central differences."""

import pkgutil
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from harness.problems import functions, networks
from methods import create_graph_rows, double_loop, vmap_hvp
from tests.oracles import central_differences, distance

ROWS = {path.stem: OmegaConf.load(path) for path in (Path(__file__).parent.parent / "conf" / "method").glob("*.yaml")}

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

# What METHODS.md knows to fail: (row, problem) -> the exception's words, or the least relative error.
KNOWN = {
    ("func_hessian", "mlp_layernorm"): 1e-2,  # the inner jacrev
    ("vmap_hvp", "mlp_regression"): "ZeroTensors are immutable",  # jvp of grad of mse_loss
    ("autograd_functional_forward", "mlp_regression"): "ZeroTensors are immutable",
    ("autograd_functional_forward", "quadratic"): "Shape mismatch",  # forward-mode misses many batching rules
}


@cache
def problem_and_truth(name: str):
    problem = PROBLEMS[name]()
    differences = central_differences(problem)
    if problem.hessian is not None:
        assert distance(problem.hessian(), differences) < 1e-8, "the closed form itself"
        return problem, problem.hessian(), 1e-12
    return problem, differences, 1e-8


def call(row: str, quantity: str, problem, **arguments):
    """The row's function for a quantity, called as the harness would; skips where it has none."""
    options = OmegaConf.to_container(OmegaConf.merge(ROWS[row], {"quantity": quantity}), resolve=True)
    options.pop("quantity")
    path, _, name = options.pop("_target_").rpartition(".")
    function = getattr(pkgutil.resolve_name(path), name, None)
    if function is None:
        pytest.skip(f"{row} has no {quantity}")
    return function(problem.loss, problem.theta, **arguments, **options)


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("double_loop")])
def test_a_row_is_right(row: str, name: str, quantity: str) -> None:
    problem, hessian, tolerance = problem_and_truth(name)
    params = problem.theta.numel()
    vectors = torch.randn(params, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = {"hessian": hessian, "diagonal": hessian.diagonal(), "hvp": hessian @ vectors}[quantity]
    known = KNOWN.get((row, name))
    before = problem.theta.clone()
    for dtype, limit in ((torch.float64, tolerance), (torch.float32, 1e-5)):
        cast = problem.to("cpu", dtype)
        exact = truth
        if dtype == torch.float32:  # the truth at the rounded parameters and data
            rounded = cast.to("cpu", torch.float64)
            matrix = central_differences(rounded) if rounded.hessian is None else rounded.hessian()
            exact = {"hessian": matrix, "diagonal": matrix.diagonal(), "hvp": matrix @ vectors.float().double()}[
                quantity
            ]
        arguments = {"vectors": vectors.to(dtype)} if quantity == "hvp" else {}
        if isinstance(known, str):
            with pytest.raises(RuntimeError, match=known):
                call(row, quantity, cast, **arguments)
            continue
        found = call(row, quantity, cast, **arguments)
        assert (found.shape, found.dtype, found.requires_grad) == (truth.shape, dtype, False)
        if known is None:
            assert distance(found, exact) <= limit
        else:
            assert distance(found, exact) > known, "torch has mended this: take it out of KNOWN and of METHODS.md"
    assert torch.equal(problem.theta, before)
    assert not problem.theta.requires_grad


@pytest.mark.parametrize("composition", ["forward_over_reverse", "reverse_over_reverse"])
@pytest.mark.parametrize("chunk_size", [1, 5, 8, 13, None])
def test_vmap_hvp_is_the_same_in_any_chunks(chunk_size: int | None, composition: str) -> None:
    problem = functions.quadratic(size=8)
    found = vmap_hvp.hessian(problem.loss, problem.theta, chunk_size, composition)
    assert distance(found, problem.hessian()) < 1e-14
    vectors = torch.eye(8, dtype=torch.float64)
    found = vmap_hvp.hvp(problem.loss, problem.theta, vectors, chunk_size, composition)
    assert distance(found, problem.hessian()) < 1e-14


def test_vmap_hvp_refuses_bad_options() -> None:
    problem = functions.quadratic(size=2)
    for chunk_size in (0, -3):
        with pytest.raises(ValueError, match=f"chunk_size must be a positive integer.*found {chunk_size}"):
            vmap_hvp.hessian(problem.loss, problem.theta, chunk_size)
    with pytest.raises(ValueError, match="composition must be forward_over_reverse or reverse_over_reverse"):
        vmap_hvp.hessian(problem.loss, problem.theta, 1, "sideways")


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
