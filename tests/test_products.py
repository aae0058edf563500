"""Products with the true matrix: batched and checked, of the GGN of several outputs; whole diagonals and blocks."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.problems import ProblemError, from_function, from_network, networks
from harness.truth import agreement, true_values
from harness.truth.products import Products, of_hessian
from harness.truth.reference import reference
from methods.vmap_ggn import ggn
from tests.judging import FULL, PROBED, by_autograd
from tests.oracles import central_differences, distance, jacobian_by_differences

D = torch.float64
NETWORK = networks.mlp(inputs=4, width=6, outputs=3, batch=16)
TRUE = by_autograd(NETWORK)


def test_batched_products_are_those_of_single_vectors() -> None:
    products = of_hessian(NETWORK)[0]
    vectors = torch.randn(len(TRUE), 150, generator=torch.Generator().manual_seed(0), dtype=D)
    assert distance(products(vectors), TRUE @ vectors) < 1e-13
    assert distance(products.columns(torch.tensor([3, 1])), TRUE[:, [3, 1]]) < 1e-13


@pytest.mark.parametrize("fault", ["one entry", "one vector", "scale", "raises", "not a number"])
def test_batched_products_that_are_wrong_are_not_taken(fault: str) -> None:
    """As of cdist, whose vmapped double backward was silently wrong (METHODS.md); a single product tells."""

    def apply(vectors: Tensor, batched: bool) -> Tensor:
        found = vectors @ TRUE
        if not batched:
            return found
        if fault == "raises":
            raise NotImplementedError("no batching rule")
        if fault == "scale":
            return 1.00001 * found
        changed = found.clone()
        changed[5, 7 if fault != "one vector" else slice(None)] += torch.nan if fault == "not a number" else 1e-4
        return changed

    vectors = torch.randn(len(TRUE), 64, generator=torch.Generator().manual_seed(0), dtype=D)
    assert distance(Products(apply, len(TRUE))(vectors), TRUE @ vectors) < 1e-13


def test_an_operator_without_a_batching_rule() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 3 * x**2 * g.clone()

    problem = from_function(lambda x: Cube.apply(x).sum() ** 2, torch.linspace(-1, 1, 7, dtype=D))
    truth = reference(problem, None, FULL, 0)
    assert distance(truth.values, central_differences(problem)) < 1e-9


# The GGN of several outputs.
class Pair(NamedTuple):
    mean: Tensor
    log_var: Tensor


@dataclass
class Output:
    mean: Tensor
    log_var: Tensor
    note: str = ""


class Heads(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.mean, self.log_var = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 2)
        self.form = form

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return self.form(self.mean(hidden), self.log_var(hidden))


def heads(form, read):
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, dtype=D), torch.randn(6, 1, dtype=D)

    def criterion(out, y):
        mean, log_var = read(out)
        return functional.gaussian_nll_loss(mean, y, log_var.sum(1, keepdim=True).exp())

    return from_network(Heads(form).double(), criterion, x, y)


FORMS = {
    "tuple": (lambda mean, log_var: (mean, log_var), lambda out: out),
    "dict": (lambda mean, log_var: {"b": mean, "a": {"c": log_var}}, lambda out: (out["b"], out["a"]["c"])),
    "named tuple": (Pair, lambda out: (out.mean, out.log_var)),
    "dataclass": (Output, lambda out: (out.mean, out.log_var)),
    "list with others": (lambda mean, log_var: [mean, None, 3, log_var], lambda out: (out[0], out[3])),
    "with integers": (lambda mean, log_var: (mean, log_var, mean.argmax()), lambda out: out[:2]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_ggn_of_several_outputs(form: str) -> None:
    """Against J^T L J by differences, of the same network with its outputs in one tensor."""
    problem = heads(*FORMS[form])
    joined = heads(lambda mean, log_var: torch.cat([mean, log_var], 1), lambda out: (out[:, :1], out[:, 1:]))
    outputs = joined.outputs(joined.theta).detach()
    jacobian = jacobian_by_differences(lambda theta: joined.outputs(theta).detach().flatten(), joined.theta)

    def slope(flat):
        at = flat.view_as(outputs).requires_grad_()
        return torch.autograd.grad(joined.criterion(at, joined.targets), at)[0].flatten()

    true = jacobian.T @ jacobian_by_differences(slope, outputs.flatten()) @ jacobian
    truth = reference(problem, None, FULL, 0, "ggn")
    assert truth.confirmed
    assert distance(truth.values, true) < 1e-8
    if form in ("tuple", "dict", "named tuple"):
        found = ggn(problem.model, problem.criterion, problem.inputs, problem.targets)
        assert agreement.compare(found, "ggn", truth)["status"] == "ok"


def test_a_ggn_without_real_outputs() -> None:
    model = nn.Linear(3, 2).double()
    problem = from_network(model, lambda out, y: model.weight.sum() + y, torch.ones(1, 3).double(), torch.ones(()))
    no_outputs = dataclasses.replace(problem, outputs=lambda theta: (None, 3))
    with pytest.raises(ProblemError, match="outputs that are real tensors"):
        reference(dataclasses.replace(no_outputs, loss=lambda theta: theta.square().sum()), None, FULL, 0, "ggn")


# Whole diagonals and blocks.
def long(size: int):
    """A loss with P parameters and a dense Hessian of rank one plus a diagonal, in closed form."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=D) / 10
    problem = from_function(lambda x: x.sin().sum() ** 2 / 2 + (x**4).sum(), x)
    return problem, x.cos() ** 2 - x.sin().sum() * x.sin() + 12 * x**2


@pytest.mark.parametrize("seed", range(3))
def test_an_error_in_a_hundredth_of_a_long_diagonal_is_found(seed: int) -> None:
    problem, true = long(2000)
    truth = reference(problem, None, FULL, seed, "diagonal")
    seen = agreement.compare(true, "diagonal", truth)
    assert (seen["status"], seen["compared"], seen["probes"]) == ("ok", 1.0, None)
    for count in (1, 20):
        wrong = true.clone()
        wrong[torch.randperm(2000, generator=torch.Generator().manual_seed(seed))[:count]] *= 1.01
        assert agreement.compare(wrong, "diagonal", truth)["status"] == "wrong"


def test_without_time_some_of_a_diagonal_is_compared_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(true_values, "DIAGONAL_S", 0.0)
    problem, true = long(300)
    seen = agreement.compare(true, "diagonal", reference(problem, None, PROBED, 0, "diagonal"))
    assert seen["compared"] == pytest.approx(64 / 300)
    assert "compared in 64 of 300 entries" in seen["message"]
    assert "missed with probability 5e-01" in seen["message"]


@pytest.mark.parametrize("place", range(len(NETWORK.sizes)))
def test_one_wrong_entry_of_one_block_is_found(place: int) -> None:
    starts = [sum(NETWORK.sizes[:index]) for index in range(len(NETWORK.sizes))]
    true = tuple(TRUE[s : s + n, s : s + n].clone() for s, n in zip(starts, NETWORK.sizes, strict=True))
    truth = reference(NETWORK, None, PROBED, 0, "block_diagonal")
    seen = agreement.compare(true, "block_diagonal", truth)
    assert (seen["status"], seen["probes"]) == ("ok", PROBED.probes)
    true[place][-1, 0] += 1e-6
    assert agreement.compare(true, "block_diagonal", truth)["status"] == "wrong"
