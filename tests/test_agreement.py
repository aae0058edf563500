"""Agreement: what is right is called right, what is wrong is found, by how much, and what cannot be judged is said."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from harness.job import Measure
from harness.problems import from_function, from_network, functions, networks
from harness.truth import agreement, distances, results
from harness.truth.reference import reference
from methods.create_graph_rows import hessian
from methods.estimates import Estimate
from tests.conftest import JOB
from tests.oracles import central_differences, distance, jacobian_by_differences

FULL = dataclasses.replace(JOB.measure, full_up_to=1024, probes=8, rows=16)
PROBED = dataclasses.replace(FULL, full_up_to=10)
NETWORK = networks.mlp(inputs=4, width=6, outputs=3, batch=16)


def judge(result, problem, measure=FULL, quantity="hessian", vectors=None):
    return agreement.compare(result, quantity, reference(problem, vectors, measure, 0, quantity))


def test_the_closed_form_is_the_reference_where_there_is_one() -> None:
    problem = functions.rosenbrock()
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"], seen["probes"]) == ("ok", "closed_form", None)
    assert seen["reference_error"] < 1e-8


def test_rows_are_the_reference_of_a_network_and_are_confirmed() -> None:
    seen = judge(central_differences(NETWORK), NETWORK)
    assert seen["reference"] == "double_backward"
    assert seen["relative_error"] < 1e-8
    assert seen["reference_error"] < 3e-11  # 3e-12 seen; without extrapolation 2e-10


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


@pytest.mark.parametrize("seed", range(10))
def test_the_kinks_of_a_relu_network_raise_no_doubt(seed: int) -> None:
    problem = networks.mlp(seed=seed, width=20, depth=2, activation="relu", batch=64)
    assert reference(problem, None, PROBED, seed).kind == "double_backward"


def test_what_is_known_of_the_reference() -> None:
    true = central_differences(NETWORK)
    params = len(true)
    full = reference(NETWORK, None, FULL, seed=0)
    assert (full.columns.tolist(), full.directions, full.products) == (list(range(params)), None, None)
    assert distance(full.values, true) < 1e-8
    probed = reference(NETWORK, None, PROBED, seed=0)
    assert PROBED.rows / 2 <= len(set(probed.columns.tolist())) <= PROBED.rows
    starts = [sum(NETWORK.sizes[:place]) for place in range(len(NETWORK.sizes))]
    for start, size in zip(starts, NETWORK.sizes, strict=True):
        assert sum(start <= column < start + size for column in probed.columns.tolist()) >= 2, "none goes unseen"
    assert distance(probed.values, true[:, probed.columns]) < 1e-8
    assert distance(probed.products, true @ probed.directions) < 1e-8
    assert probed.directions.shape == (params, PROBED.probes)
    vectors = torch.randn(params, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_hvp = reference(NETWORK, vectors, FULL, seed=0)
    assert len(of_hvp.columns) == 0
    assert distance(of_hvp.products, true @ vectors) < 1e-8


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


def test_the_figures_by_hand() -> None:
    """R is the unit matrix; [[1, 0.5], [0, 1]] is off by 0.5 / sqrt(2), uneven by sqrt(2) 0.5 / sqrt(2.25)."""
    problem = from_function(lambda x: (x**2).sum() / 2, torch.ones(2, dtype=torch.float64))
    seen = judge(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), problem)
    found = [seen["relative_error"], seen["worst_error"], seen["asymmetry"]]
    assert found == pytest.approx([0.5 / 2**0.5, 0.5, 0.5 * 2**0.5 / 1.5], rel=1e-12)


def test_the_figures_do_not_depend_on_the_blocks_they_are_summed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    true = hessian(NETWORK.loss, NETWORK.theta)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = [judge(true + 1e-3 * noise, NETWORK, measure) for measure in (FULL, PROBED)]
    monkeypatch.setattr(distances, "BLOCK", 7)  # P = 51: seven blocks of 7 rows and one of 2
    for measure, expected in zip((FULL, PROBED), whole, strict=True):
        found = judge(true + 1e-3 * noise, NETWORK, measure)
        for key in ("relative_error", "worst_error", "asymmetry"):
            assert found[key] == pytest.approx(expected[key], rel=1e-12)


def test_probes_find_what_is_wrong_in_a_row_that_is_not_compared() -> None:
    columns = reference(NETWORK, None, PROBED, seed=0).columns.tolist()
    row = next(index for index in range(len(NETWORK.theta)) if index not in columns)
    wrong = hessian(NETWORK.loss, NETWORK.theta).clone()
    wrong[row] *= 1.5
    seen = judge(wrong, NETWORK, PROBED)
    assert seen["status"] == "wrong"
    assert seen["worst_error"] < 1e-12


@pytest.mark.parametrize("place", range(len(NETWORK.sizes)))
def test_one_wrong_tensor_is_found_in_a_diagonal_and_in_blocks(place: int) -> None:
    """However few parameters it has: columns of each are compared."""
    true = hessian(NETWORK.loss, NETWORK.theta)
    start, size = sum(NETWORK.sizes[:place]), NETWORK.sizes[place]
    wrong = true.diagonal().clone()
    wrong[start : start + size] *= 1.5
    assert judge(wrong, NETWORK, PROBED, "diagonal")["status"] == "wrong"
    blocks = list(blocks_of(true, NETWORK.sizes))
    blocks[place] = 1.5 * blocks[place]
    assert judge(tuple(blocks), NETWORK, PROBED, "block_diagonal")["status"] == "wrong"


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


def blocks_of(matrix, sizes):
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return tuple(matrix[s : s + size, s : s + size] for s, size in zip(starts, sizes, strict=True))


@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_blocks_are_compared_with_those_of_the_hessian(measure: Measure) -> None:
    true = central_differences(NETWORK)
    blocks = blocks_of(true, NETWORK.sizes)
    assert judge(blocks, NETWORK, measure, "block_diagonal")["relative_error"] < 1e-8
    seen = judge(tuple(1.1 * block for block in blocks), NETWORK, measure, "block_diagonal")
    assert (seen["status"], seen["relative_error"]) == ("wrong", pytest.approx(0.1))
    uneven = (torch.triu(blocks[0], 1) * 1e-3 + blocks[0], *blocks[1:])
    size = torch.cat([block.flatten() for block in uneven]).norm()
    asymmetry = 1e-3 * 2**0.5 * torch.triu(blocks[0], 1).norm() / size
    assert judge(uneven, NETWORK, measure, "block_diagonal")["asymmetry"] == pytest.approx(asymmetry.item(), rel=1e-3)


@pytest.mark.parametrize("task", ["classes", "regression"])
@pytest.mark.parametrize("measure", [FULL, PROBED])
def test_the_ggn_and_its_distance_from_the_hessian(measure: Measure, task: str) -> None:
    """Against J^T L J with J and L by central differences; the distance is a figure of its own, and no error."""
    problem = networks.mlp(inputs=4, width=6, outputs=3, batch=16, task=task)
    outputs = problem.outputs(problem.theta).detach()
    jacobian = jacobian_by_differences(lambda theta: problem.outputs(theta).detach().flatten(), problem.theta)

    def slope(flat):
        at = flat.view_as(outputs).requires_grad_()
        return torch.autograd.grad(problem.criterion(at, problem.targets), at)[0].flatten()

    ggn = jacobian.T @ jacobian_by_differences(slope, outputs.flatten()) @ jacobian
    truth = reference(problem, None, measure, 0, "ggn")
    assert (truth.kind, truth.error < 1e-9) == ("double_backward", True)
    true = central_differences(problem)
    seen = agreement.compare(ggn, "ggn", truth, reference(problem, None, measure, 0))
    assert seen["relative_error"] < 1e-8
    assert seen["hessian_distance"] == pytest.approx(float((ggn - true).norm() / true.norm()), rel=0.3)
    assert seen["hessian_distance"] > 0.1
    assert agreement.compare(true, "ggn", truth)["status"] == "wrong", "the Hessian is not the GGN"


def test_an_estimate_is_judged_by_its_own_standard_error() -> None:
    """Errors across the true diagonal; those along it, and more, in test_estimates.py."""
    true = hessian(NETWORK.loss, NETWORK.theta).diagonal()
    error = 0.1 * true.norm() / len(true) ** 0.5 * torch.ones_like(true)
    noise = torch.randn(len(true), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    across = noise - (noise @ true) / (true @ true) * true
    across *= error.norm() / across.norm()
    for factor, status in ((1.0, "ok"), (3.9, "ok"), (4.1, "wrong")):
        seen = judge(Estimate(true + factor * across, error, 30), NETWORK, quantity="diagonal")
        assert seen["status"] == status
        assert seen["relative_error"] == pytest.approx(0.1 * factor, abs=1e-12)
        assert (seen["standard_error"], seen["estimate_probes"]) == (pytest.approx(0.1), 30)
    assert judge(Estimate(true, error * torch.inf, 30), NETWORK, quantity="diagonal")["status"] == "nonfinite"


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
    assert "2 of" in seen["message"]
    for quantity, result in (("diagonal", broken.diagonal()), ("hvp", broken[:, :2])):
        seen = judge(result, NETWORK, quantity=quantity, vectors=torch.ones_like(result) if quantity == "hvp" else None)
        assert (seen["status"], seen["nonfinite"]) == ("nonfinite", 1 if quantity == "diagonal" else 2)


def test_a_reference_that_is_not_finite_judges_nothing() -> None:
    problem = from_function(lambda x: x.sqrt().sum(), torch.zeros(2, dtype=torch.float64))
    seen = judge(torch.zeros(2, 2, dtype=torch.float64), problem)
    assert (seen["status"], "not finite" in seen["message"]) == ("error", True)


def test_a_hessian_of_zeros_is_compared_absolutely() -> None:
    problem = from_function(lambda x: x.sum(), torch.ones(3, dtype=torch.float64))
    assert judge(torch.zeros(3, 3, dtype=torch.float64), problem)["status"] == "ok"
    seen = judge(torch.eye(3, dtype=torch.float64), problem)
    assert (seen["status"], "all zero" in seen["message"]) == ("wrong", True)


def test_contract() -> None:
    theta, vectors = torch.ones(3), torch.ones(3, 2)
    assert results.result_fault(torch.ones(3, 3), "hessian", theta, None) is None
    assert results.result_fault(torch.ones(3), "diagonal", theta, None) is None
    assert results.result_fault(torch.ones(3, 2), "hvp", theta, vectors) is None
    for result, quantity in ((torch.ones(3, 2), "hessian"), (torch.ones(3, 3), "diagonal"), (torch.ones(3, 3), "hvp")):
        assert "returned shape" in str(results.result_fault(result, quantity, theta, vectors))
    assert "torch.float64" in str(results.result_fault(torch.ones(3, 3).double(), "hessian", theta, None))
    assert results.result_fault(torch.ones(3, 3, requires_grad=True), "hessian", theta, None) is None, (
        "judged, and said"
    )
    assert "NoneType" in str(results.result_fault(None, "hessian", theta, None))
    assert "tuple, not a tensor" in str(results.result_fault((torch.ones(3, 3),), "hessian", theta, None))
    assert "on meta" in str(results.result_fault(torch.ones(3, 3, device="meta"), "hessian", theta, None))


def test_contract_of_blocks_and_estimates() -> None:
    theta, eye = torch.ones(3), torch.eye(2)
    sizes = (2, 1)
    assert results.result_fault((eye, torch.ones(1, 1)), "block_diagonal", theta, None, sizes) is None
    assert "tuple of 2 tensors" in str(results.result_fault((eye,), "block_diagonal", theta, None, sizes))
    assert "returned Tensor" in str(results.result_fault(torch.eye(3), "block_diagonal", theta, None, sizes))
    assert "returned shape (2, 2)" in str(results.result_fault((eye, eye), "block_diagonal", theta, None, sizes))
    assert results.result_fault(Estimate(theta, theta, 4), "diagonal", theta, None) is None
    assert "returned shape (1,)" in str(results.result_fault(Estimate(theta, theta[:1], 4), "diagonal", theta, None))


def test_the_oracle_of_these_tests() -> None:
    problem = functions.quadratic()
    assert distance(central_differences(problem), problem.hessian()) < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_an_exact_kink_raises_no_doubt(seed: int) -> None:
    """Zero biases, a usual start, and an all-zero sample: differences grow as 1/step there and say nothing."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    nn.init.zeros_(model[0].bias)
    inputs = torch.randn(16, 5, dtype=torch.float64)
    inputs[0] = 0
    problem = from_network(model, nn.CrossEntropyLoss(), inputs, torch.randint(3, (16,)))
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"]) == ("ok", "double_backward")
    assert "do not confirm the reference" in seen["message"]


def test_at_the_edge_of_the_domain_the_reference_stays_unconfirmed() -> None:
    point = torch.tensor([1e-6, 1.0], dtype=torch.float64)
    problem = from_function(lambda x: x.sqrt().sum(), point, (), lambda x: (-(x**-1.5) / 4).diag())
    seen = judge(hessian(problem.loss, problem.theta), problem)
    assert (seen["status"], seen["reference"]) == ("ok", "closed_form")
    assert "do not confirm the reference" in seen["message"]
