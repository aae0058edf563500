"""Every case of the zoo: its loss is a fit one, and central differences give it a Hessian with a small error."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from harness.problems import build, check
from harness.truth import differences

FOLDER = Path(__file__).parent.parent / "conf" / "problem" / "zoo"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def case(name):
    options = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    options.pop("stop_gradient", None)  # which the job reads
    return build(options.pop("_target_"), options)


@pytest.mark.parametrize("name", CASES)
def test_the_truth_is_known_and_not_zero(name: str) -> None:
    problem = case(name)
    check(problem)
    truth, error = differences.hessian(problem.loss, problem.theta)
    assert error < 1e-8
    assert truth.norm() > 1e-2


def test_every_loss_of_torch_is_there() -> None:
    losses = {name for name, value in vars(nn).items() if name.endswith("Loss") and inspect.isclass(value)}
    present = {yaml.safe_load((FOLDER / f"{name}.yaml").read_text()).get("name") for name in CASES}
    deprecated = {"NLLLoss2d"}
    networks = {"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}  # with parameters of their own
    assert losses - present - deprecated <= networks


def test_train_mode_leaves_the_network_as_it_was() -> None:
    problem = case("batch_norm_train")
    before = {name: buffer.clone() for name, buffer in problem.model.named_buffers()}
    assert torch.equal(problem.loss(problem.theta), problem.loss(problem.theta))
    assert all(torch.equal(buffer, before[name]) for name, buffer in problem.model.named_buffers())
