"""Problems at the parameters that training leads to."""

import pytest
import torch

from harness.advise import snippet
from harness.config import ConfigError
from harness.job import STATED
from harness.problems import ProblemError, build, from_function, from_network, functions, networks, split, trained
from harness.problems.problem import Problem
from tests.conftest import JOB


def value(problem: Problem) -> float:
    return float(problem.loss(problem.theta))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_falls_and_the_point_is_the_same_every_time(dtype) -> None:
    one, other = (trained(networks.mlp(width=4, batch=16), 50) for _ in range(2))
    assert torch.equal(one.theta, other.theta)
    assert value(one) < 0.9 * value(networks.mlp(width=4, batch=16))
    cast = one.to("cpu", dtype)
    assert torch.equal(cast.theta, one.theta.to(dtype)), "it is trained once, in float64"
    held = torch.cat([parameter.detach().flatten() for parameter in cast.model.parameters()])
    assert torch.equal(held, cast.theta), "the model holds the point"


def test_it_is_torchs_adam() -> None:
    """The same steps through torch.nn, with the gradients that backward leaves in the parameters."""
    problem = networks.mlp(width=4, batch=16)
    found = trained(problem, 3)
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        problem.criterion(problem.model(problem.inputs), problem.targets).backward()
        optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in problem.model.parameters()])
    assert torch.allclose(found.theta, expected, rtol=1e-12, atol=1e-14)


def test_the_problem_itself_is_left_alone() -> None:
    problem = networks.mlp(width=4, batch=16)
    before = problem.theta.clone()
    trained(problem, 3)
    assert torch.equal(problem.theta, before)
    assert torch.equal(torch.cat([p.detach().flatten() for p in problem.model.parameters()]), before)
    assert trained(problem, 0) is problem


def test_fixed_and_tied_parameters_stay_so() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    fixed = model[0].bias.detach().clone()
    given = torch.randn(8, 3, dtype=torch.float64), torch.randint(3, (8,))
    found = trained(from_network(model, torch.nn.CrossEntropyLoss(), *given), 5)
    assert torch.equal(found.model[0].bias, fixed)
    assert found.model[2].weight is found.model[0].weight
    assert found.theta.numel() == 12


def test_a_function_is_trained_too_and_keeps_its_closed_form() -> None:
    start, found = functions.quadratic(size=4), trained(functions.quadratic(size=4), 20)
    assert value(found) < value(start)
    assert torch.equal(found.hessian(), start.hessian())


def test_batches_and_dtypes_come_after_training() -> None:
    problem = split(trained(networks.mlp(width=4, batch=16), 5), 4)
    assert torch.equal(
        problem.to("cpu", torch.float32).theta, trained(networks.mlp(width=4, batch=16), 5).theta.float()
    )


def test_what_cannot_be_trained_says_so() -> None:
    falling = from_function(lambda theta: (1 - theta).log().sum(), torch.full((2,), 0.9, dtype=torch.float64))
    with pytest.raises(ProblemError, match=r"train_steps=50: the loss is (-inf|nan) after 1\d steps of Adam"):
        trained(falling, 50)
    constant = from_function(lambda theta: torch.ones((), dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    each = from_function(lambda x: x**2, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ProblemError, match=r"train_steps=2: the loss must be a single number, found \(2,\)"):
        trained(each, 2)
    with pytest.raises(ProblemError, match="the loss does not depend on the parameters"):
        trained(constant, 1)
    bare = Problem(torch.sum, torch.zeros(2, dtype=torch.float64), (2,), lambda device, dtype: bare)
    with pytest.raises(ProblemError, match="does not show the tensors that are its parameters"):
        trained(bare, 1)


def test_the_option_is_stated_and_not_given_to_the_builder(job) -> None:
    made = job(problem_options=JOB.problem_options | {"train_steps": 7})
    assert made.train_steps == 7
    assert "train_steps" not in made.builder_options
    assert job().train_steps == 0
    assert STATED["train_steps"].allows(0)
    with pytest.raises(ConfigError, match=r"problem.train_steps=-1 .*"):
        _ = job(problem_options={"train_steps": -1}).train_steps


def test_a_record_of_a_trained_network(run) -> None:
    seen = run(problem_options=JOB.problem_options | {"train_steps": 30}, passes=("agreement",))
    assert seen["status"] == "ok", seen["message"]
    assert '"train_steps": 30' in seen["problem_options"]


def test_advise_shows_how_the_trained_problem_is_built(job) -> None:
    from harness.advise.advice import Advice, Survey

    made = job(problem_options=JOB.problem_options | {"train_steps": 30})
    survey = Survey((), (), made, 20, made.builder_options | {"seed": 0}, None, None)
    text = snippet.snippet(survey, Advice(made, ("loss", "theta"), "ok", None, 20))
    names: dict = {}
    exec(text, names)
    expected = trained(build(made.problem_target, made.builder_options | {"seed": 0}), 30)
    assert torch.equal(names["problem"].theta, expected.theta)
