"""Problems as people have them: without targets, their own loss, dicts, nested parameters, several outputs."""

import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.problems import ProblemError, build, check, from_function, from_network, subset
from harness.run import worker
from methods import factored
from methods.calls import arguments
from methods.create_graph_rows import hessian
from methods.vmap_ggn import ggn
from tests.oracles import central_differences, distance


def net(inputs=3, outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


X, Y = drawn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])


def right(problem) -> bool:
    """Whether a problem is a sound one, in float32 too, whose Hessian by autograd is that by central differences."""
    check(problem)
    check(problem.to("cpu", torch.float32))
    copied = problem.to("cpu", torch.float64)
    check(copied)
    found = hessian(copied.loss, copied.theta)
    return (
        distance(found, central_differences(copied)) < 1e-8
        and distance(hessian(problem.loss, problem.theta), found) == 0
    )


class Alone(nn.Module):
    """A loss of the outputs alone."""

    def forward(self, outputs):
        return outputs.square().mean()


@pytest.mark.parametrize(
    "criterion",
    [
        lambda outputs, _: outputs.square().mean(),
        lambda outputs: outputs.logsumexp(1).mean(),
        lambda outputs, targets=None: outputs.tanh().sum(),
        Alone(),
        torch.mean,
    ],
)
def test_a_loss_without_targets(criterion, job) -> None:
    for built in (from_network(net(), criterion, X, None), from_network(net(), criterion, X)):
        assert right(built)
        assert built.targets is None
        true = hessian(built.loss, built.theta)
        assert distance(factored.hessian(built.model, built.criterion, built.inputs, built.targets), true) < 1e-12
        cell = worker.bind(job(target="methods.factored.hessian"), built)
        assert distance(cell.call(), true) < 1e-12
        cell = worker.bind(job(target="methods.factored.hessian"), subset(built, 5, 0))
        assert cell.call().shape == (5, 5)


def test_a_method_that_asks_for_a_network_is_not_offered_a_function(job) -> None:
    problem = from_function(lambda w: w.square().sum(), torch.ones(2))
    with pytest.raises(worker.Unsupported, match="asks for model, criterion, inputs, targets, which"):
        worker.bind(job(target="methods.factored.hessian"), problem)


@dataclasses.dataclass
class Out:
    loss: torch.Tensor | None
    logits: Any = None


class Output(collections.OrderedDict):
    pass


class Computing(nn.Module):
    """Computes its loss itself, from labels among its inputs, and returns it in some form."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = net(), form

    def forward(self, x, labels=None):
        logits = self.net(x)
        return self.form(None if labels is None else F.cross_entropy(logits, labels), logits)


@pytest.mark.parametrize(
    "form",
    [
        lambda loss, logits: loss,
        lambda loss, logits: {"loss": loss, "logits": logits},
        lambda loss, logits: Output(loss=loss, logits=logits),
        lambda loss, logits: (loss, logits),
        Out,
    ],
)
@pytest.mark.parametrize("inputs", [(X, Y), {"x": X, "labels": Y}, collections.UserDict(x=X, labels=Y)])
def test_a_model_that_computes_its_loss_itself(form, inputs) -> None:
    problem = from_network(Computing(form), None, inputs)
    assert right(problem)
    assert problem.loss(problem.theta).item() == F.cross_entropy(net()(X), Y).item()
    assert problem.criterion(problem.model(X, Y), None).item() == problem.loss(problem.theta).item()


@pytest.mark.parametrize(
    "form", [lambda loss, logits: logits, lambda loss, logits: {"logits": logits}, lambda loss, logits: Out(loss)]
)
def test_a_model_without_a_loss_is_told_to_have_one(form) -> None:
    problem = from_network(Computing(form), None, X)
    with pytest.raises(ValueError, match="give a criterion, or labels among the inputs"):
        check(problem)


class Heads(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.body, self.mean, self.log_variance, self.form = net(3, 4), nn.Linear(4, 1), nn.Linear(4, 1), form
        self.double()

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return self.form(self.mean(hidden), self.log_variance(hidden))


def gaussian(outputs, targets):
    mean, log_variance = outputs.values() if isinstance(outputs, dict) else outputs
    return F.gaussian_nll_loss(mean, targets, log_variance.exp())


@pytest.mark.parametrize(
    "form",
    [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"mean": a, "log": b}, collections.namedtuple("G", "m l")],
)
def test_several_outputs(form) -> None:
    problem = from_network(Heads(form), gaussian, X, drawn(6, 1))
    assert right(problem)
    joined = from_network(
        Heads(lambda a, b: torch.cat([a, b], 1)), lambda o, y: gaussian((o[:, :1], o[:, 1:]), y), X, drawn(6, 1)
    )
    given, others = ((p.model, p.criterion, p.inputs, p.targets) for p in (problem, joined))
    assert distance(ggn(*given), ggn(*others)) < 1e-12


def by_name(self, x, shift=0.0):
    return self.net(x + shift)


def a_batch(self, batch):
    return self.net(batch["x"] + batch["shift"])


def a_batch_and_more(self, batch=None, **options):
    return self.net(batch["x"] + batch["shift"])


def named_alone(self, **batch):
    return self.net(batch["x"] + batch["shift"])


def forwarding(self, *given, **named):
    return by_name(self, *given, **named)


def two(self, first, batch):
    return self.net(first + batch["shift"])


SHIFT = drawn(6, 3)


@pytest.mark.parametrize(
    ("forward", "inputs"),
    [
        (by_name, {"x": X, "shift": SHIFT}),
        (by_name, collections.OrderedDict(shift=SHIFT, x=X)),
        (by_name, collections.UserDict(x=X, shift=SHIFT)),
        (by_name, (X, SHIFT)),
        (named_alone, {"x": X, "shift": SHIFT}),
        (forwarding, {"x": X, "shift": SHIFT}),
        (a_batch, {"x": X, "shift": SHIFT}),
        (a_batch_and_more, {"x": X, "shift": SHIFT}),
        (two, (X, {"shift": SHIFT})),
    ],
)
def test_a_dict_is_given_by_name_where_forward_names_its_keys(forward, inputs) -> None:
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.net = net()
    problem = from_network(model, nn.CrossEntropyLoss(), inputs, Y)
    assert right(problem)
    assert problem.loss(problem.theta).item() == F.cross_entropy(net()(X + SHIFT), Y).item()
    part = subset(problem, 4, seed=0)
    positional, named = arguments(part.model, part.inputs)
    assert part.criterion(part.model(*positional, **named), Y).item() == part.loss(part.theta).item()


def nested(p, x):
    for w, b in p["layers"] if isinstance(p, dict) else p:
        x = torch.tanh(x @ w + b)
    return x.square().mean()


Layer = collections.namedtuple("Layer", "w b")
LAYERS = [(drawn(3, 2), drawn(2)), (drawn(2, 1), drawn(1))]


@pytest.mark.parametrize(
    "parameters",
    [
        LAYERS,
        {"layers": LAYERS},
        {"layers": tuple(Layer(*layer) for layer in LAYERS)},
        [Layer(*layer) for layer in LAYERS],
    ],
)
def test_nested_parameters_of_a_function(parameters) -> None:
    problem = from_function(nested, parameters, (X,))
    assert problem.sizes == (6, 2, 2, 1)
    assert right(problem)


def test_a_scalar_and_a_module_as_parameters_of_a_function() -> None:
    assert right(
        from_function(lambda p, x: (p["a"] * x).tanh().sum(), {"a": torch.tensor(0.3, dtype=torch.float64)}, (X,))
    )
    model = net()
    assert right(from_function(lambda p, x: torch.func.functional_call(model, p, x).square().sum(), model, (X,)))


def four():
    return net(), nn.CrossEntropyLoss(), X, Y


def three():
    return net(), lambda outputs, _: outputs.square().sum(), X


def three_with_own_loss():
    return Computing(Out), None, {"x": X, "labels": Y}


def pair():
    return lambda p: p.square().sum(), drawn(3)


def function_of_data():
    return nested, LAYERS, (X,)


def function_of_one_tensor():
    return nested, LAYERS, X


def module_as_objective():
    return Alone(), drawn(3)


def no_problem():
    return 3, 4


@pytest.mark.parametrize("builder", [four, three, three_with_own_loss])
def test_a_builder_of_a_network(builder) -> None:
    problem = build(f"{__name__}.{builder.__name__}", {})
    assert isinstance(problem.model, nn.Module)
    assert right(problem)


@pytest.mark.parametrize("builder", [pair, function_of_data, function_of_one_tensor, module_as_objective])
def test_a_builder_of_a_function(builder) -> None:
    problem = build(f"{__name__}.{builder.__name__}", {})
    assert problem.model is None
    assert right(problem)


def test_a_builder_of_neither_is_told_what_to_return() -> None:
    with pytest.raises(
        ProblemError, match=r"returned tuple; it must return \(model, criterion, inputs, targets\), or \(mod"
    ):
        build(f"{__name__}.no_problem", {})


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: from_network(net(), nn.MSELoss, X, X), "give an instance of it, MSELoss()"),
        (lambda: from_network(net(), Alone, X), "is the class Alone, not a loss: give an instance of it, Alone()"),
        (lambda: from_network(net(), nn.CrossEntropyLoss, X, Y), "CrossEntropyLoss()"),
        (lambda: from_network(net().requires_grad_(False), Alone(), X), "all 26 are frozen: call model.requires_grad_"),
        (lambda: from_network(nn.Sequential(nn.LazyLinear(2)), Alone(), X), "call the model once on its inputs"),
        (lambda: from_network(nn.Flatten(), Alone(), X), "the model has none"),
        (lambda: from_network(nn.Linear(3, 2, dtype=torch.cfloat), Alone(), X), "torch.view_as_real(p)"),
        (lambda: from_function(lambda p: p["a"], {"a": 0.3}), "make a number a tensor of shape ()"),
    ],
)
def test_what_is_no_problem_is_told_what_to_write(made, words: str) -> None:
    with pytest.raises(ProblemError) as error:
        made()
    assert words in str(error.value)


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Several(nn.Module):
    def forward(self, x, y):
        return x + y


class Whole(nn.Module):
    def forward(self, batch):
        return batch.x


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, sequences):
        return self.head(self.cells(sequences)[1][-1])


def test_a_named_tuple_is_one_argument_unless_its_fields_are_named() -> None:
    pair = Pair(X, X)
    assert arguments(Several(), (X, Y)) == ((X, Y), {})
    assert arguments(Several(), pair)[1].keys() == {"x", "y"}
    assert arguments(Whole(), pair)[0][0] is pair
    values = torch.max(X, 1)  # a named tuple that is a class of torch
    assert arguments(nn.Identity(), values)[0][0] is values


def test_a_packed_sequence_is_one_argument() -> None:
    packed = nn.utils.rnn.pack_sequence([drawn(length, 3) for length in (4, 3, 2)])
    assert right(from_network(Recurrent(), nn.MSELoss(), packed, drawn(3, 2)))
