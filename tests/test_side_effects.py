"""What a method leaves behind is noticed and named, and nothing else is."""

import dataclasses
import functools
import importlib
import json
import random
import subprocess
import sys
import time
import warnings

import numpy
import pytest
import torch
from torch import nn

from harness.problems import Problem, check, from_function, from_network, networks
from harness.problems.binding import bind
from harness.run import worker
from harness.truth import agreement
from harness.truth.patched_functions import patched, snapshot
from harness.truth.side_effects import SideEffects, same_value
from tests.changes import CHANGES
from tests.conftest import JOB, ROOT


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[str]]:
    """What is found of each change; a file `written` under a closed umask lies beside."""
    folder = tmp_path_factory.mktemp("changes")
    command = [sys.executable, "-m", "tests.changes", str(folder / "written")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout) | {"mode": [oct((folder / "written").stat().st_mode)]}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_process_is_named(found, name: str) -> None:
    assert any(entry == name or entry.startswith(f"{name} (") for entry in found[name]), found[name]
    assert len(found[name]) <= 4


def test_a_state_that_hinders_reading_is_named_and_undone(found) -> None:
    assert [entry.split(" (")[0] for entry in found["lower the limit"]] == ["the recursion limit"]
    (gone,) = found["into a folder that is gone"]
    assert "the working directory" in gone
    assert "FileNotFoundError" in gone
    assert int(found["mode"][0], 8) & 0o400, "what is written after a closed umask can be read"


def test_environment_variables_are_named_without_their_values(found) -> None:
    assert found["a secret in the environment"] == ["the environment variable PATH"]


def test_reading_changes_nothing_and_what_torch_does_is_no_trace(found) -> None:
    assert found["nothing"] == found["raise the limit"] == found["a foreign thread"] == []


# What a method is given


class Keeps(nn.Module):
    """A layer that keeps its last activation, and counts its calls: the loss does so by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2).double()
        self.scale = 2.0
        self.mask = torch.ones(2, dtype=torch.float64)  # no buffer
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.kept = self.inner(x) * self.scale * self.mask
        return self.kept


def fault(target: str, problem: Problem | None = None, **changes) -> str | None:
    """What a watch says of one call of a method, by default of this module on `Keeps`."""
    inputs, targets = torch.ones(4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    problem = problem or from_network(Keeps(), nn.CrossEntropyLoss(), inputs, targets)
    side_effects = SideEffects()
    target = target if "." in target else f"{__name__}.{target}"
    cell = bind(dataclasses.replace(JOB, target=target, **changes), problem)
    side_effects.remember(cell)
    cell.call()
    found = side_effects.fault(cell)
    assert found is None or found["status"] == "error"
    return None if found is None else found["message"]


def right(loss, theta):
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def theta_in_place(loss, theta):
    theta[0] = torch.nan


def theta_resized(theta):
    theta.resize_(1)


def theta_elsewhere(theta):
    theta.set_(torch.zeros(2, dtype=theta.dtype))


def theta_hooked(theta):
    theta.requires_grad_().register_hook(print)


def vectors_scaled(vectors):
    vectors /= 2


def inputs_shifted(inputs):
    inputs += 1


def targets_zeroed(targets):
    targets.zero_()


def parameter_replaced(model):
    model.inner.weight = nn.Parameter(model.inner.weight.detach() + 1)


def parameter_frozen(model):
    model.inner.bias.requires_grad_(False)


def parameter_hooked(model):
    model.inner.bias.register_post_accumulate_grad_hook(print)


def parameter_removed(model):
    del model.inner.bias


def parameter_added(model):
    model.extra = nn.Parameter(torch.zeros(1))


def gradient_left(model, criterion, inputs, targets):
    criterion(model(inputs), targets).backward()


def buffer_added(model):
    model.register_buffer("means", torch.zeros(1))


def many_buffers_added(model):
    for place in range(50):
        model.register_buffer(f"b{place}", torch.zeros(1))


def forward_hooked(model):
    model.inner.register_forward_hook(print)


def forward_pre_hooked(model):
    model.inner.register_forward_pre_hook(print)


def backward_hooked(model):
    model.register_full_backward_hook(print)


def forward_replaced(model):
    model.inner.forward = print


def attribute_added(model):
    model.inner.note = 1


def attribute_changed(model):
    model.scale = 3.0


def tensor_attribute_changed(model):
    model.mask[0] = 0


def layer_in_eval_mode(model):
    model.inner.eval()


def layer_replaced(model):
    model.inner = nn.Linear(3, 2).double()


def criterion_changed(criterion):
    criterion.reduction = "sum"


ARGUMENTS = {
    theta_in_place: "theta;",
    theta_resized: "theta;",
    theta_elsewhere: "theta;",
    theta_hooked: "theta.requires_grad (False, now True), theta._backward_hooks (added);",
    vectors_scaled: "vectors;",
    inputs_shifted: "inputs;",
    targets_zeroed: "targets;",
    parameter_replaced: "inner.weight",
    parameter_frozen: "inner.bias.requires_grad (True, now False);",
    parameter_hooked: "inner.bias._post_accumulate_grad_hooks (added);",
    parameter_removed: "inner.bias (removed), inner.bias.requires_grad (removed);",
    parameter_added: "extra (added), extra.requires_grad (added);",
    gradient_left: "inner.weight.grad (added), inner.bias.grad (added);",
    buffer_added: "means (added), means.requires_grad (added);",
    forward_hooked: "inner._forward_hooks (added);",
    forward_pre_hooked: "inner._forward_pre_hooks (added);",
    backward_hooked: "model._backward_hooks (added)",
    forward_replaced: "inner.forward (added);",
    attribute_added: "inner.note (added);",
    attribute_changed: "model.scale (2.0, now 3.0);",
    tensor_attribute_changed: "model.mask;",
    layer_in_eval_mode: "inner.training (True, now False);",
    layer_replaced: "the module inner,",
    criterion_changed: "criterion.reduction (mean, now sum);",
}


@pytest.mark.parametrize("function", ARGUMENTS, ids=lambda function: function.__name__)
def test_a_change_of_the_arguments_is_named(function) -> None:
    quantity = {"quantity": "hvp"} if function is vectors_scaled else {}
    found = fault(function.__name__, **quantity)
    assert found is not None
    assert ARGUMENTS[function] in found
    assert "work on copies" in found


@pytest.mark.parametrize("target", ["vmap_hvp", "create_graph_rows", "func_hessian", "factored", "autograd_functional"])
def test_the_methods_leave_nothing(target: str) -> None:
    for module in worker.LAZY:  # as the server does
        importlib.import_module(module)
    for problem in (networks.mlp(width=3, batch=4), networks.cnn(channels=2, image=4, batch=2)):
        assert fault(f"methods.{target}.hessian", problem) is None


def test_what_the_loss_itself_sets_is_no_trace() -> None:
    assert fault("right") is None


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: torch.randperm(n),
        lambda n: next(iter(batches(n)))[0].long(),
        lambda n: torch.as_tensor(numpy.random.permutation(n)),
    ],
)
def test_what_the_loss_itself_draws_is_no_trace_of_the_method(draw) -> None:
    point = torch.linspace(0, 1, 5, dtype=torch.float64)
    problem = from_function(lambda x: x[draw(5)].sin().sum(), point)
    assert fault("methods.create_graph_rows.hessian", problem) is None
    globals()["draws"] = lambda loss, theta: (loss(theta), random.random())
    assert "changed Python's random state;" in str(fault("draws", problem))


def batches(count):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(count)), batch_size=count)


def test_a_loss_that_draws_is_warned_of() -> None:
    point = torch.ones(3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="the loss draws random numbers"):
        check(from_function(lambda x: x[torch.randperm(3)].square().sum(), point))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(from_function(lambda x: x.square().sum(), point))


def test_data_of_a_function_and_nan_in_it() -> None:
    data = torch.tensor([torch.nan, 1.0], dtype=torch.float64)
    point = torch.ones(2, dtype=torch.float64)
    problem = from_function(lambda x, data: (x * data.nan_to_num()).square().sum(), point, (data,))
    assert fault("right", problem) is None
    globals()["data_changed"] = lambda loss, theta: data.zero_()
    assert "changed data;" in str(fault("data_changed", problem))


def test_a_long_list_is_cut() -> None:
    assert "b2.requires_grad (added) and 94 more; a method" in str(fault("many_buffers_added"))


def test_same() -> None:
    nan = torch.tensor([torch.nan, 1.0])
    assert same_value(nan, nan.clone())
    assert not same_value(nan, torch.tensor([0.0, 1.0]))
    assert not same_value(torch.zeros(2), torch.zeros(3))
    assert not same_value(torch.zeros(2), torch.zeros(2).double())
    assert not same_value(None, torch.zeros(2))
    assert not same_value(0, False)


# Replaced functions


@pytest.mark.parametrize(
    ("owner", "name", "dotted"),
    [
        (torch.autograd, "grad", "torch.autograd.grad"),
        (torch.func, "vmap", "torch.func.vmap"),
        (nn.functional, "linear", "torch.nn.functional.linear"),
        (torch.Tensor, "norm", "torch.Tensor.norm"),
        (torch.Tensor, "sub", "torch.Tensor.sub"),  # inherited: a new attribute hides it
        (nn.Linear, "forward", "torch.nn.Linear.forward"),
        (time, "perf_counter", "time.perf_counter"),
        (numpy, "asarray", "numpy.asarray"),
        (json, "dumps", "json.dumps"),
        (agreement, "compare", "harness.truth.agreement.compare"),
    ],
)
def test_a_replaced_function_is_named(monkeypatch, owner, name: str, dotted: str) -> None:
    before = snapshot()
    monkeypatch.setattr(owner, name, functools.wraps(getattr(owner, name))(lambda *_, **__: None))
    assert dotted in patched(before)


def test_what_is_wrapped_by_torch_is_still_foreign(monkeypatch) -> None:
    before = snapshot()
    monkeypatch.setattr(torch, "dot", torch.no_grad()(lambda *_: None))
    assert patched(before) == ["torch.dot"]


def test_what_is_added_or_torchs_own_is_not_named(monkeypatch) -> None:
    before = snapshot()
    monkeypatch.setattr(torch, "a_new_one", print, raising=False)
    monkeypatch.setattr(torch.jit, "trace", torch._dynamo.disable(torch.jit.trace))
    assert patched(before) == []
