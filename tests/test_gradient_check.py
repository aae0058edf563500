"""The plain loss as judge: intended stop-gradients, cut graphs, backwards of one's own; and kinks, which are none."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.problems import from_function, from_network, networks
from harness.problems.functions import rosenbrock
from harness.truth import agreement
from harness.truth.reference import reference
from tests.judging import DIFFERENCES, FULL, by_autograd, judge
from tests.oracles import distance

D = torch.float64
SMALL, LARGE = 5, 42  # parameters: the Hessian can be had from the loss alone, or not


def point(size):
    return torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=D)


# Stop-gradients, each with the Hessian that holds the stopped part constant.
def temporal_difference(x):
    """(v(s) - target)^2 with v = tanh(x); the target, of the next state, is constant."""
    with torch.no_grad():
        target = 0.9 * torch.tanh(x).roll(1) + 1
    return (torch.tanh(x) - target).square().sum()


def temporal_difference_hessian(x):
    v = torch.tanh(x)
    target, slope = 0.9 * v.roll(1) + 1, 1 - v**2
    return (2 * slope**2 + 2 * (v - target) * (-2 * v * slope)).diag()


def straight_through(x):
    """Round forward, identity backward."""
    return (x + (torch.round(x) - x).detach()).square().sum()


def magic_box(x):
    """The loss is constant, its gradient is not: exp(x - stop(x)) (Foerster et al. 2018)."""
    return torch.exp(x - x.data).sum()


def same_value(x):
    """The gradient is the loss's slope, 0, and only the curvature is not."""
    return (x - x.clone().detach_()).square().sum()


@torch.no_grad()
def attention(x):
    return x.softmax(0)


def weighted(x):
    return (attention(x) * x**2).sum()


STOPS = [
    (temporal_difference, temporal_difference_hessian, "torch.no_grad"),
    (straight_through, lambda x: 2 * torch.eye(len(x), dtype=D), "torch.Tensor.detach"),
    (magic_box, lambda x: torch.eye(len(x), dtype=D), "torch.Tensor.data"),
    (same_value, lambda x: 2 * torch.eye(len(x), dtype=D), "torch.Tensor.detach_"),
    (weighted, lambda x: 2 * x.softmax(0).diag(), "torch.no_grad"),
]


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("measure", [FULL, DIFFERENCES], ids=lambda measure: measure.truth)
@pytest.mark.parametrize(("loss", "hessian", "name"), STOPS, ids=lambda entry: getattr(entry, "__name__", ""))
def test_what_looks_stopped_is_constant(loss, hessian, name, measure, size) -> None:
    problem = from_function(loss, point(size))
    true = hessian(problem.theta)
    found = by_autograd(problem)
    seen = judge(found, problem, measure)
    assert distance(found, true) < 1e-12
    assert (seen["status"], seen["relative_error"] < 1e-9) == ("ok", True)
    for part in (
        "looks like an intended stop-gradient",
        f"{name} (test_gradient_check.py:",
        "problem.stop_gradient=true",
    ):
        assert part in seen["message"]
    assert judge(1.01 * found, problem, measure)["status"] == "wrong"
    stated = judge(found, problem, measure, stop_gradient=True)
    assert (stated["status"], stated["message"]) == ("ok", None)
    assert judge(found, problem, measure, stop_gradient=False)["status"] == "wrong"


def test_stopped_within_a_network_and_its_criterion() -> None:
    """A focal loss; every quantity, the GGN with the weight constant in its outer Hessian as well."""

    def focal(out, y):
        log_p = out.log_softmax(1).gather(1, y[:, None])[:, 0]
        return -((1 - log_p.exp()).detach() ** 2 * log_p).mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3, dtype=D), torch.randint(2, (6,))
    problem = from_network(model, focal, x, y)
    weight = (1 - model(x).softmax(1).gather(1, y[:, None])[:, 0]).square().detach()

    def fixed_weight(out, y):
        return (weight * functional.cross_entropy(out, y, reduction="none")).mean()

    fixed = from_network(model, fixed_weight, x, y)
    true = by_autograd(fixed)
    assert judge(true, problem)["status"] == "ok"
    assert judge(true.diagonal(), problem, quantity="diagonal")["status"] == "ok"
    truth = reference(problem, None, FULL, 0, "ggn")
    assert distance(truth.values, reference(fixed, None, FULL, 0, "ggn").values) < 1e-12
    assert agreement.compare(truth.values, "ggn", truth)["status"] == "ok"


# Cut graphs, each with the loss as it is meant.
def matrix(x):
    """log det of a matrix that torch.tensor copies out of its graph."""
    return torch.tensor([[x[0].exp() + 3, x[1]], [x[1], x[2].exp() + 3]]).logdet() + (x**4).sum()


def with_float(x):
    return float(x[0]) * (x**2).sum()


def with_math(x):
    return math.exp(x[0].item()) * (x**3).sum()


def through_numpy(x):
    return torch.from_numpy(np.exp(x.detach().numpy())) @ x**2


def through_list(x):
    return torch.as_tensor(x.tolist(), dtype=D) @ x**2


def inner_gradient(x):
    (gradient,) = torch.autograd.grad((x**4).sum(), x)
    return (gradient * x).sum() + (x**2).sum()


def list_of_tensors(x):
    return torch.as_tensor([entry * 2 for entry in x], dtype=D) @ x**2


def unseen(x):
    """torch shows no mode that Parameter copies."""
    return (nn.Parameter(x * 2) * x**2).sum()


CUTS = [
    (matrix, "torch.tensor ("),
    (with_float, "float() ("),
    (with_math, "torch.Tensor.item ("),
    (through_numpy, "torch.Tensor.numpy of a detached tensor ("),
    (through_list, "torch.Tensor.tolist ("),
    (inner_gradient, "torch.autograd.grad without create_graph=True ("),
    (list_of_tensors, "torch.as_tensor ("),
    (unseen, "by a call that the harness does not see"),
]


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("measure", [FULL, DIFFERENCES], ids=lambda measure: measure.truth)
@pytest.mark.parametrize(("loss", "name"), CUTS, ids=lambda entry: getattr(entry, "__name__", ""))
def test_a_cut_graph_is_wrong_and_named(loss, name, measure, size) -> None:
    problem = from_function(loss, point(size))
    found = by_autograd(problem)
    seen = judge(found, problem, measure)
    assert seen["status"] == "wrong"
    assert "is not the slope of the loss (off by " in seen["message"]
    assert name in seen["message"]
    assert judge(found, problem, measure, stop_gradient=True)["status"] == "ok", "stated as meant"
    other = judge(2 * found, problem, measure)
    assert other["status"] == ("wrong" if size == SMALL else "error"), "neither autograd's nor known"


def test_the_truth_of_a_cut_loss_is_that_of_its_values() -> None:
    problem = from_function(with_float, point(SMALL))
    x = problem.theta
    true = 2 * x[0] * torch.eye(SMALL, dtype=D)  # x_0 sum x^2
    true[0] += 2 * x
    true[:, 0] += 2 * x
    seen = judge(true, problem)
    assert (seen["status"], seen["reference"]) == ("ok", "central_differences")


# A backward of one's own.
class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.1, 0.1)


@pytest.mark.parametrize("function", [Reverse, Sign, Clip])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_backward_of_its_own_is_taken_as_meant_and_named(function, size) -> None:
    problem = from_function(lambda x: (function.apply(x) * x**2).sum() + (x**4).sum(), point(size))
    found = by_autograd(problem)
    seen = judge(found, problem)
    assert (seen["status"], f"{function.__name__} has a backward of its own" in seen["message"]) == ("ok", True)
    assert judge(found, problem, stop_gradient=True)["message"] is None
    assert judge(found, problem, stop_gradient=False)["status"] == "wrong"


# What raises no alarm.
LOG = []


def logged(x):
    LOG.append(x.sum().item())
    LOG.append(x.detach().numpy().copy())
    return (x**4).sum()


INNOCENT = {
    "logged": logged,
    "argmax": lambda x: x[x.argmax()] ** 3 + (x**2).sum(),
    "sorted": lambda x: (x.sort().values * torch.arange(len(x))).square().sum(),
    "ones_like": lambda x: ((x + torch.ones_like(x)) ** 3).sum(),
    "detached_elsewhere": lambda x: (x**3).sum() + 0.0 * x.detach().sum(),
    "relu_at_zero": lambda x: torch.relu(x - x.detach().clone().mul(1)).sum() * 0 + (x**3).relu().sum(),
    "abs_at_zero": lambda x: (x * (torch.arange(len(x)) > 0)).abs().sum() + (x**4).sum(),
    "max_of_equals": lambda x: torch.stack([x[0], x[0] * 1.0]).max() ** 2 + (x**4).sum(),
}


@pytest.mark.parametrize("loss", INNOCENT.values(), ids=INNOCENT.keys())
def test_what_does_not_matter_raises_no_alarm(loss) -> None:
    problem = from_function(loss, point(SMALL))
    for stated in (None, False):
        assert reference(problem, None, FULL, 0, stop_gradient=stated).departure is None


def test_a_kink_at_the_point_raises_no_alarm() -> None:
    """relu at 0: its slope is 0 or 1 by the side, and autograd's 0 is between."""
    at = torch.tensor([0.0, 0.0, 1.0], dtype=D)
    for kinked in (torch.relu, torch.abs, lambda x: -torch.relu(x), functional.softshrink, functional.hardtanh):
        problem = from_function(lambda x, kinked=kinked: kinked(x).sum() + (x**4).sum(), at)
        assert reference(problem, None, FULL, 0).departure is None


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_networks_raise_no_alarm(activation) -> None:
    for seed in range(3):
        problem = networks.mlp(seed=seed, width=20, depth=2, activation=activation, batch=64)
        assert reference(problem, None, FULL, seed).departure is None
    assert reference(rosenbrock(), None, FULL, 0).departure is None


@pytest.mark.parametrize("weight", [3e-3, 3e-4, 3e-5, 1e-5])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_small_cut_that_nothing_shows_is_found(weight, size) -> None:
    """torch shows no mode that Parameter copies; the departure is far beyond the error of the differences."""
    problem = from_function(lambda x: (x**4).sum() + weight * (nn.Parameter(x) ** 4).sum(), point(size))
    seen = judge(by_autograd(problem), problem)
    assert seen["status"] == "wrong"
    assert "is not the slope of the loss (off by " in seen["message"]


@pytest.mark.parametrize("by", [1e-4, 1e-3, 1e-2])
def test_a_kink_close_to_the_point_raises_no_alarm(by) -> None:
    for weight in (1e-3, 1e-1):
        at = by * torch.tensor([1.0, -1.0, 2.0, 0.0, 0.0], dtype=D) + torch.tensor([0.0, 0, 0, 1, 2], dtype=D)
        problem = from_function(lambda x, weight=weight: weight * x[:3].abs().sum() + (x**4).sum(), at)
        assert reference(problem, None, FULL, 0).departure is None
