"""Agreement: what is right is called right, what is wrong is found, by how much, and what cannot be judged is said."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from harness import agreement
from harness.job import Measure
from harness.problems import from_function, from_network, functions, networks
from methods.create_graph_rows import hessian
from tests.oracles import central_differences, distance

FULL = Measure(budget_s=1, min_samples=1, max_samples=1, precision=1, full_up_to=1024, probes=8, rows=16)
PROBED = Measure(budget_s=1, min_samples=1, max_samples=1, precision=1, full_up_to=10, probes=8, rows=16)
NETWORK = networks.mlp(inputs=4, width=6, outputs=3, batch=16)


def judge(result, problem, measure=FULL, quantity="hessian", vectors=None):
    return agreement.compare(result, quantity, agreement.reference(problem, vectors, measure, seed=0))


def test_the_closed_form_is_the_reference_where_there_is_one() -> None:
    problem = functions.rosenbrock()
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"], seen["probes"]) == ("ok", "closed_form", None)
    assert seen["reference_error"] < 1e-8


def test_rows_are_the_reference_of_a_network_and_are_confirmed() -> None:
    seen = judge(central_differences(NETWORK), NETWORK)
    assert seen["reference"] == "double_backward"
    assert seen["relative_error"] < 1e-8
    assert seen["reference_error"] < 1e-9


def test_where_autograd_is_wrong_central_differences_are_the_reference() -> None:
    """weight_norm's parametrization: double backward is off by a quarter (METHODS.md)."""
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(16, 4, dtype=torch.float64), torch.randint(3, (16,))
    problem = from_network(model, nn.CrossEntropyLoss(), inputs, targets)
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"]) == ("wrong", "central_differences")
    assert 0.1 < seen["relative_error"] < 0.5
    assert judge(central_differences(problem), problem)["status"] == "ok"


def test_a_wrong_closed_form_is_not_believed() -> None:
    problem = from_function(lambda x: (x**4).sum(), torch.ones(3, dtype=torch.float64), (), lambda x: x.diag())
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"]) == ("ok", "central_differences")


def test_the_kinks_of_a_relu_network_raise_no_doubt() -> None:
    for seed in range(5):
        problem = networks.mlp(seed=seed, width=20, depth=2, activation="relu", batch=64)
        seen = judge(hessian(problem.loss, problem.theta), problem)
        assert (seen["status"], seen["reference"]) == ("ok", "double_backward")


@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_a_planted_error_is_measured(measure: Measure) -> None:
    true = hessian(NETWORK.loss, NETWORK.theta)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    planted = 1e-3 * true.norm() / noise.norm() * noise
    seen = judge(true + planted, NETWORK, measure)
    assert seen["status"] == "wrong"
    assert seen["probes"] == (None if measure is FULL else 8)
    assert seen["relative_error"] == pytest.approx(1e-3, rel=1e-9 if measure is FULL else 0.3)
    asymmetry = (planted - planted.T).norm() / (true + planted).norm()
    assert seen["asymmetry"] == pytest.approx(asymmetry.item(), rel=1e-6)


def test_one_wrong_entry_is_found() -> None:
    wrong = hessian(NETWORK.loss, NETWORK.theta).clone()
    size = wrong[3].abs().max()
    wrong[3, 5] += 0.5 * size
    assert judge(wrong, NETWORK)["worst_error"] == pytest.approx(0.5, rel=1e-9)


def test_other_quantities() -> None:
    true = hessian(NETWORK.loss, NETWORK.theta)
    vectors = torch.randn(len(true), 2, dtype=torch.float64)
    for measure in (FULL, PROBED):
        assert judge(true.diagonal(), NETWORK, measure, "diagonal")["status"] == "ok"
        assert judge(1.1 * true.diagonal(), NETWORK, measure, "diagonal")["relative_error"] == pytest.approx(0.1)
        assert judge(true @ vectors, NETWORK, measure, "hvp", vectors)["status"] == "ok"
        assert judge(1.1 * true @ vectors, NETWORK, measure, "hvp", vectors)["relative_error"] == pytest.approx(0.1)


@pytest.mark.parametrize(("dtype", "right"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_the_tolerance_follows_the_dtype(dtype: torch.dtype, right: float) -> None:
    true = hessian(NETWORK.loss, NETWORK.theta)
    assert judge(true.to(dtype), NETWORK)["status"] == "ok"
    assert judge(((1 + right) * true).to(dtype), NETWORK)["status"] == "ok"
    assert judge(((1 + 30 * right) * true).to(dtype), NETWORK)["status"] == "wrong"


def test_entries_that_are_not_finite_are_counted() -> None:
    broken = hessian(NETWORK.loss, NETWORK.theta).clone()
    broken[0, :2] = torch.tensor([torch.nan, torch.inf])
    seen = judge(broken, NETWORK)
    assert (seen["status"], seen["nonfinite"]) == ("nonfinite", 2)
    assert "relative_error" not in seen


def test_a_hessian_of_zeros_is_compared_absolutely() -> None:
    problem = from_function(lambda x: x.sum(), torch.ones(3, dtype=torch.float64))
    assert judge(torch.zeros(3, 3, dtype=torch.float64), problem)["status"] == "ok"
    seen = judge(torch.eye(3, dtype=torch.float64), problem)
    assert (seen["status"], "all zero" in seen["message"]) == ("wrong", True)


def test_contract() -> None:
    theta, vectors = torch.ones(3), torch.ones(3, 2)
    assert agreement.contract(torch.ones(3, 3), "hessian", theta, None) is None
    assert agreement.contract(torch.ones(3), "diagonal", theta, None) is None
    assert agreement.contract(torch.ones(3, 2), "hvp", theta, vectors) is None
    for result, quantity in ((torch.ones(3, 2), "hessian"), (torch.ones(3, 3), "diagonal"), (torch.ones(3, 3), "hvp")):
        assert "returned shape" in str(agreement.contract(result, quantity, theta, vectors))
    assert "torch.float64" in str(agreement.contract(torch.ones(3, 3).double(), "hessian", theta, None))
    assert "result.detach()" in str(agreement.contract(torch.ones(3, 3, requires_grad=True), "hessian", theta, None))
    assert "NoneType" in str(agreement.contract(None, "hessian", theta, None))


def test_the_oracle_of_these_tests() -> None:
    problem = functions.quadratic()
    assert distance(central_differences(problem), problem.hessian()) < 1e-10
