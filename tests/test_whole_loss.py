"""The loss is the whole loss: what reads the parameters outside of the model counts, or is told what to write."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.problems import ProblemError, build, check, from_function, from_network, subset
from methods import factored, vmap_hvp
from methods.calls import loss_of
from methods.create_graph_rows import hessian
from methods.ravel import ravel
from tests.oracles import distance, jacobian_by_differences

D = torch.float64


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def drawn():
    torch.manual_seed(1)
    return torch.randn(6, 3, dtype=D), torch.randint(0, 2, (6,))


class Penalised(nn.Module):
    """A criterion that has the model as a part."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets) + 0.1 * self.model[0].weight.norm()


class Consistent:
    """A criterion that calls the model again, and holds it in an object."""

    def __init__(self, model, x):
        self.held, self.x = {"model": model}, x

    def __call__(self, outputs, targets):
        return F.cross_entropy(outputs, targets) + (self.held["model"](self.x + 0.1) - outputs).square().mean()


class SelfPenalised(nn.Sequential):
    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets) + 0.1 * nn.utils.parameters_to_vector(self.parameters()).norm()


def closing(penalty):
    def made(model, x):
        return lambda outputs, targets: F.cross_entropy(outputs, targets) + 0.1 * penalty(model)

    return made


def to_old(model):
    """Elastic weight consolidation: a pull towards where the parameters were."""
    old = {name: p.detach() + 0.3 for name, p in model.named_parameters()}
    return lambda outputs, targets: (
        F.cross_entropy(outputs, targets)
        + 0.1 * sum((p - old[name]).square().sum() for name, p in model.named_parameters())
    )


CRITERIA = {
    "parameters": closing(lambda model: sum(p.square().sum() for p in model.parameters())),
    "named": closing(lambda model: sum(p.norm() for name, p in model.named_parameters() if "bias" not in name)),
    "attribute": closing(lambda model: model[2].weight.abs().pow(3).sum()),
    "modules": closing(lambda model: sum(m.weight.norm() for m in model.modules() if isinstance(m, nn.Linear))),
    "vector": closing(lambda model: nn.utils.parameters_to_vector(model.parameters()).pow(4).sum()),
    "module": lambda model, x: Penalised(model),
    "object": Consistent,
    "old": lambda model, x: to_old(model),
    "partial": lambda model, x: functools.partial(
        lambda model, outputs, targets: F.cross_entropy(outputs, targets) + model[0].bias.pow(4).sum(), model
    ),
}


def by_moving_in_place(loss, params) -> torch.Tensor:
    """The Hessian (P, P) of a loss of parameters that are moved in place, by central differences of its gradient."""

    def gradient(theta):
        with torch.no_grad():
            for p, part in zip(params, theta.split([p.numel() for p in params]), strict=True):
                p.copy_(part.view_as(p))
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss(), params)])

    theta = torch.cat([p.detach().reshape(-1) for p in params])
    found = jacobian_by_differences(gradient, theta)
    gradient(theta)  # puts the parameters back
    return found


@pytest.mark.parametrize("name", CRITERIA)
def test_what_reads_the_model_within_the_criterion_counts(name: str) -> None:
    model, (x, y) = net(), drawn()
    problem = from_network(model, CRITERIA[name](model, x), x, y)
    true = by_moving_in_place(lambda: problem.criterion(model(x), y), list(model.parameters()))
    for built in (problem, problem.to("cpu", torch.float32).to("cpu", D)):
        check(built)
        assert distance(hessian(built.loss, built.theta), true) < 1e-6
        assert distance(vmap_hvp.hessian(built.loss, built.theta), true) < 1e-6
    part = subset(problem, 5, seed=0)
    index = torch.stack([(problem.theta == value).nonzero()[0, 0] for value in part.theta])
    principal = true[index][:, index]
    assert distance(hessian(part.loss, part.theta), principal) < 1e-8
    (parameter,) = part.model.parameters()
    by_model = by_moving_in_place(lambda: part.criterion(part.model(part.inputs), part.targets), [parameter])
    assert distance(by_model, principal) < 1e-6
    assert distance(factored.hessian(part.model, part.criterion, part.inputs, part.targets), principal) < 1e-6


def test_a_method_of_the_model_may_be_its_criterion() -> None:
    model = SelfPenalised(*net())
    x, y = drawn()
    problem = from_network(model, model.loss, x, y).to("cpu", D)
    assert problem.criterion.__self__ is problem.model
    true = by_moving_in_place(lambda: model.loss(model(x), y), list(model.parameters()))
    assert distance(hessian(problem.loss, problem.theta), true) < 1e-8


def test_loss_of_is_the_whole_loss_without_the_harness_too() -> None:
    model, (x, y) = net(), drawn()
    theta, unravel = ravel(model)
    loss = loss_of(model, CRITERIA["parameters"](model, x), x, y)
    plain = loss_of(model, nn.CrossEntropyLoss(), x, y)
    penalty = hessian(lambda theta: loss(unravel(theta)), theta) - hessian(lambda theta: plain(unravel(theta)), theta)
    assert distance(penalty, 0.2 * torch.eye(len(theta), dtype=D)) < 1e-12


def of_list(model, x):
    kept = list(model.parameters())
    return lambda outputs, targets: F.cross_entropy(outputs, targets) + sum(p.square().sum() for p in kept)


def of_data(model, x):
    shared = model[0].weight.data
    return lambda outputs, targets: F.cross_entropy(outputs, targets) + 1e-3 * shared.square().sum()


def of_view(model, x):
    view = model[0].weight.view(-1)[:2]
    return lambda outputs, targets: F.cross_entropy(outputs, targets) * (1 + view.sum())


def of_state(model, x):
    state = model.state_dict()
    return lambda outputs, targets: F.cross_entropy(outputs, targets) + state["0.bias"].sum()


@pytest.mark.parametrize("made", [of_list, of_data, of_view, of_state])
def test_what_keeps_the_tensors_themselves_is_told_to_take_them_from_the_model(made) -> None:
    model, (x, y) = net(), drawn()
    before = [p.detach().clone() for p in model.parameters()]
    problem = from_network(model, made(model, x), x, y)
    for built in (problem, problem.to("cpu", D), problem.to("cpu", torch.float32)):
        with pytest.raises(
            ProblemError, match=r"elsewhere too.*must take them from the model, as model.parameters\(\)"
        ):
            check(built)
    assert all(torch.equal(p, then) for p, then in zip(model.parameters(), before, strict=True))


W = torch.ones(3, dtype=D)
VIEW = W.view(1, 3)[0]


@pytest.mark.parametrize(
    "objective",
    [
        lambda w: (w * W).square().sum(),
        lambda w: w.square().sum() + W.sum(),
        lambda w, view=VIEW: (w**2 * view[0]).sum(),
    ],
)
def test_an_objective_that_closes_over_its_parameters_is_told_to_take_its_argument(objective) -> None:
    with pytest.raises(ProblemError, match=r"objective\(parameters, \*data\).*must take them from its argument"):
        check(from_function(objective, W))


def elsewhere():
    model, (x, y) = net(), drawn()
    return model, of_list(model, x), x, y


def hidden():
    @functools.cache
    def model():
        return net()

    x, y = drawn()
    return model(), lambda o, y: F.cross_entropy(o, y) + model()[0].weight.norm(), x, y


def test_a_builder_is_checked_before_and_after_the_cast() -> None:
    with pytest.raises(ProblemError, match="elsewhere too"):
        build(f"{__name__}.elsewhere", {})
    problem = build(f"{__name__}.hidden", {}).to("cpu", D)
    with pytest.raises(ProblemError, match=r"parameters \(4, 3\) torch.float64 of a network that is not found"):
        check(problem)


def test_a_loss_that_asks_for_requires_grad_is_told_not_to() -> None:
    model, (x, y) = net(), drawn()
    problem = from_network(
        model, lambda o, y: F.cross_entropy(o, y) + sum(p.norm() for p in model.parameters() if p.requires_grad), x, y
    )
    with pytest.raises(ProblemError, match=r"do not ask for p.requires_grad"):
        check(problem)


def test_layers_made_within_the_loss_and_teachers_are_no_other_network() -> None:
    model, (x, y) = net(), drawn()
    teacher = copy.deepcopy(model)

    def criterion(outputs, targets):
        normed = nn.LayerNorm(2, dtype=outputs.dtype)(outputs)
        return F.cross_entropy(normed, targets) + (outputs - teacher(x)).square().mean()

    check(from_network(model, criterion, x, y).to("cpu", D))
