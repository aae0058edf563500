"""Counters against counts that can be done by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.job import QUANTITIES
from harness.measure import counters
from harness.problems import networks
from methods import autograd_functional, create_graph_rows, func_hessian, vmap_hvp
from tests.rows import PER_SAMPLE, ROWS, bound, installed, target


def test_flops_of_a_product_and_operations() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert counters.count(lambda: a @ b) == {"operations": 1, "flops": 2 * 3 * 4 * 5}
    assert counters.count(lambda: (a + a).sum()) == {"operations": 2, "flops": 0}


def test_flops_of_products_that_are_added_in_place_or_written_into_a_tensor() -> None:
    a, b, c = torch.ones(2, 3, 4), torch.ones(2, 4, 5), torch.ones(2, 3, 5)
    one = 2 * 3 * 4 * 5
    assert counters.count(lambda: c[0].addmm_(a[0], b[0]))["flops"] == one
    assert counters.count(lambda: c.baddbmm_(a, b))["flops"] == 2 * one
    assert counters.count(lambda: torch.bmm(a, b, out=c))["flops"] == 2 * one
    assert counters.count(lambda: c.add_(c))["flops"] == 0


def test_operations_of_a_backward_pass_and_of_vmap_are_seen() -> None:
    a = torch.ones(3, 4, requires_grad=True)
    b = torch.ones(4, 5)
    forward = counters.count(lambda: (a.detach() @ b).sum())
    both = counters.count(lambda: torch.autograd.grad((a @ b).sum(), a))
    assert both["flops"] == 2 * forward["flops"]
    assert both["operations"] > forward["operations"]
    batched = counters.count(lambda: torch.func.vmap(lambda v: b.T @ v)(torch.ones(7, 4)))
    assert batched["flops"] == 2 * 7 * 4 * 5


@pytest.mark.parametrize("method", [create_graph_rows, func_hessian, vmap_hvp, autograd_functional])
@pytest.mark.parametrize("problem", [networks.mlp, networks.cnn])
def test_flops_are_those_of_torchs_own_mode(method, problem) -> None:
    built = problem(batch=4)
    with FlopCounterMode(display=False) as mode:
        method.hessian(built.loss, built.theta)
    assert counters.count(lambda: method.hessian(built.loss, built.theta))["flops"] == mode.get_total_flops() > 0


EXACT = ["operations", "allocations", "flops", "tensor_peak_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("jax")])
def test_counters_are_the_same_in_five_processes(run, row: str) -> None:
    """In every row, less what torch cannot see: JAX's memory, and the operations of compiled code."""
    if not installed(row):
        pytest.skip("the peer is not installed")
    quantity = next(quantity for quantity in QUANTITIES if bound(row, quantity)[0] is not None)
    path, name, options = target(row, quantity)
    problem = {"problem_target": "harness.problems.functions.logistic", "problem_options": {"bias": False}}
    if not row.startswith("double_loop"):
        norm = "layer" if row != "backpack" else None
        problem = {"problem_options": {"norm": norm, "inputs": 2, "width": 3, "outputs": 2, "batch": 8}}
    job = {"target": f"{path}.{name}", "method_options": options, "quantity": quantity, "limit_s": 120.0, **problem}
    job["per_sample"] = row in PER_SAMPLE
    seen = [run(**job) for _ in range(5)]
    if row == "double_loop_no_create_graph":
        assert {record["status"] for record in seen} == {"error"}
        return
    counted = EXACT if seen[0]["compiled_graphs"] is None else ["allocations", "tensor_peak_bytes", "compiled_graphs"]
    assert all(record[name] is not None for record in seen for name in counted)
    assert len({tuple(record[name] for name in counted) for record in seen}) == 1
    print(f"\n{row}: {', '.join(f'{name} {seen[0][name]}' for name in counted)}, 5 of 5 the same")
