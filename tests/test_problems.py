"""The problems: sizes, closed forms, casting, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from harness.problems import ProblemError, from_function, from_network, functions, networks
from harness.problems.problem import build, check
from methods.create_graph_rows import hessian
from tests.oracles import central_differences, distance

CONF = Path(__file__).parent.parent / "conf" / "problem"
ROWS = [path.stem for path in CONF.glob("*.yaml") if path.stem != "custom"]


def row(name: str):
    options = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    for base in options.pop("defaults", []):
        if base != "_self_":
            options = OmegaConf.to_container(OmegaConf.load(CONF / f"{base}.yaml")) | options
    return build(options.pop("_target_"), options)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_sound_problem(name: str) -> None:
    problem = row(name)
    check(problem)
    assert problem.theta.dtype == torch.float64
    assert hessian(problem.loss, problem.theta).norm() > 1e-3, "a Hessian that is zero would tell nothing"
    again = row(name)
    assert torch.equal(problem.theta, again.theta)
    assert problem.loss(problem.theta) == again.loss(again.theta)


@pytest.mark.parametrize(
    ("problem", "params"),
    [
        (lambda: networks.mlp(inputs=3, width=4, depth=2, outputs=2), 3 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2),
        (lambda: networks.mlp(inputs=3, width=4, outputs=2, norm="layer"), 3 * 4 + 4 + 8 + 4 * 2 + 2),
        (lambda: networks.cnn(image=5, channels=2, depth=1, outputs=3), 9 * 2 + 2 + 2 * 9 * 3 + 3),
        (lambda: functions.logistic(inputs=3, classes=4), 16),
        (lambda: functions.logistic(inputs=3, classes=4, bias=False), 12),
        (lambda: functions.normal_loglik(), 2),
    ],
)
def test_sizes(problem, params: int) -> None:
    assert problem().theta.numel() == params


@pytest.mark.parametrize(
    "problem",
    [functions.quadratic, functions.rosenbrock, functions.normal_loglik, functions.logistic,
     lambda seed: functions.logistic(seed=seed, bias=False)],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_forms(problem, seed: int) -> None:
    problem = problem(seed=seed)
    assert distance(problem.hessian(), central_differences(problem)) < 1e-9


def test_a_seed_changes_the_draw() -> None:
    assert not torch.equal(networks.mlp(seed=0).theta, networks.mlp(seed=1).theta)


def test_casting_casts_all_and_rounds_once() -> None:
    model = nn.Linear(3, 2, dtype=torch.float64)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7], dtype=torch.float64))
    inputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.randint(2, (5,))
    problem = from_network(model, criterion, inputs, targets)
    single = problem.to("cpu", torch.float32)
    assert {single.theta.dtype, single.inputs.dtype, single.criterion.weight.dtype} == {torch.float32}
    assert single.targets.dtype == torch.int64
    assert single.loss(single.theta).dtype == torch.float32
    double = single.to("cpu", torch.float64)
    assert torch.equal(double.theta, problem.theta.float().double())
    assert torch.equal(double.inputs, inputs.float().double())
    assert model.weight.dtype == torch.float64, "the user's own model is not touched"


def test_data_and_closed_form_of_a_function_are_cast() -> None:
    single = functions.quadratic(size=3).to("cpu", torch.float32)
    assert single.hessian().dtype == torch.float32
    assert single.loss(single.theta).dtype == torch.float32


def test_inputs_may_be_a_tuple_or_a_dict() -> None:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, a, b):
            return (self.weight * a * b["x"]).square()

    inputs = torch.randn(4, 2), {"x": torch.randn(4, 2)}
    problem = from_network(Two(), lambda out, targets: (out * targets["y"]).sum(), inputs, {"y": torch.ones(4, 2)})
    expected = 2 * (inputs[0] * inputs[1]["x"]).square().sum(0).diag()
    assert distance(hessian(problem.loss, problem.theta), expected.double()) < 1e-6


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        (networks.mlp, {"width": 0}, "mlp: width=0"),
        (networks.mlp, {"depth": -1}, "mlp: depth=-1"),
        (networks.mlp, {"width": 2.5}, "mlp: width=2.5"),
        (networks.mlp, {"batch": True}, "mlp: batch=True"),
        (networks.mlp, {"activation": "swish"}, "activation=swish is not known; choose one of tanh"),
        (networks.mlp, {"norm": "batch"}, "norm=batch is not known; choose one of null, layer"),
        (networks.mlp, {"task": "ranking"}, "task=ranking"),
        (networks.cnn, {"image": 0}, "cnn: image=0"),
        (functions.rosenbrock, {"size": 1}, "rosenbrock: size=1"),
        (functions.normal_loglik, {"scale": 0.0}, "scale=0.0 must be positive"),
        (functions.quadratic, {"condition": -1.0}, "condition=-1.0"),
    ],
)
def test_bad_options_are_named(builder, options: dict, words: str) -> None:
    with pytest.raises(ProblemError) as error:
        builder(**options)
    assert words in str(error.value)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (from_function(lambda x: x, torch.ones(2)), "must be a scalar (a tensor of shape ()), found (2,)"),
        (from_function(lambda x: x.sum()[None], torch.ones(2)), "found (1,)"),
        (from_function(lambda x: 3.0, torch.ones(2)), "found float"),
        (from_function(lambda x: torch.ones(()), torch.ones(2)), "does not depend on its parameters"),
        (from_function(lambda x: x.detach().sum(), torch.ones(2)), "does not depend on its parameters"),
        (from_function(lambda x: (x - 2).log().sum(), torch.ones(2)), "the loss is nan"),
        (from_network(Dropped(), nn.MSELoss(), torch.randn(40, 3), torch.randn(40, 2)), "not deterministic"),
    ],
)
def test_what_has_no_hessian_is_refused(problem, words: str) -> None:
    with pytest.raises(ProblemError) as error:
        check(problem)
    assert words in str(error.value)


def test_building_refuses_what_is_no_problem() -> None:
    with pytest.raises(ProblemError, match="cannot be imported"):
        build("no.such.path", {})
    with pytest.raises(ProblemError, match="returned int; it must return"):
        build("tests.faulty.no_problem", {})
    with pytest.raises(ProblemError, match="cannot be imported"):
        build("tests.faulty.absent", {})


def test_the_example_of_a_users_own_problem() -> None:
    problem = build("tests.examples.custom_problem.my_problem", {"hidden": 4}).to("cpu", torch.float64)
    check(problem)
    assert problem.theta.numel() == (5 * 4 + 4) + 2 * (4 * 4 + 4) + 5
    assert distance(hessian(problem.loss, problem.theta), central_differences(problem)) < 1e-8


def test_a_problem_is_frozen() -> None:
    problem = functions.quadratic()
    with pytest.raises(AttributeError):
        problem.theta = torch.ones(1)
    assert replace(problem, theta=torch.ones(20)).theta.sum() == 20
