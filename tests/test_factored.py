"""The factored Hessian, against rows through autograd and central differences, over layers, losses and arrangements."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import nn
from torch.nn import functional

from harness.problems import from_network, networks, transformers
from harness.truth import differences
from methods import create_graph_rows, factored
from methods.factoring import contractions, products, propagation, rows, sequential
from tests.oracles import distance
from tests.test_zoo import CASES, case

pytestmark = pytest.mark.usefixtures("matrix_products")

NO_DOUBLE_BACKWARD = {
    "attention_fused",
    "ctc_loss",
    "multi_label_margin_loss",
    "multi_margin_loss",
    "embedding_bag_max",
    "embedding_bag_mean",
    "embedding_bag_sum",
}


if Version(torch.__version__) < Version("2.12"):
    NO_DOUBLE_BACKWARD.add("grid_sample")


def of(problem, **options):
    return factored.hessian(problem.model, problem.criterion, problem.inputs, problem.targets, **options)


def by_rows(problem):
    return create_graph_rows.hessian(problem.loss, problem.theta)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(model, inputs, targets, criterion=None):
    torch.manual_seed(0)
    networks.draw_parameters(model, torch.Generator().manual_seed(0))
    return from_network(model, criterion or nn.CrossEntropyLoss(), inputs, targets)


@pytest.mark.parametrize("name", [name for name in CASES if case(name).model is not None])
def test_the_zoo_against_central_differences(name: str) -> None:
    problem = case(name)
    if name in NO_DOUBLE_BACKWARD:
        with pytest.raises(RuntimeError, match="derivative for"):
            of(problem)
        return
    if name == "stop_gradient":  # the loss has another derivative than its code, so that differences are no truth
        truth, error = by_rows(problem), 0.0
    else:
        truth, error = differences.hessian(problem.loss, problem.theta)
    found = of(problem)
    assert distance(found, truth) < max(1e-9, 10 * error)
    diagonal = factored.diagonal(problem.model, problem.criterion, problem.inputs, problem.targets)
    assert float((diagonal - found.diagonal()).norm() / found.diagonal().norm()) < 1e-12
    assert not found.requires_grad


class _WithoutOutputs(nn.Module):
    """A layer, and beside it one without outputs, such as a branch of width zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.empty = nn.Linear(3, 3), nn.Linear(3, 0)

    def forward(self, x):
        return torch.cat([self.layer(x).tanh(), self.empty(x).tanh()], -1)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("quantity", ["hessian", "diagonal"])
def test_a_layer_without_outputs(quantity: str) -> None:
    problem = from_network(_WithoutOutputs().double(), nn.CrossEntropyLoss(), draw(5, 3), torch.arange(5) % 3)
    found = getattr(factored, quantity)(problem.model, problem.criterion, problem.inputs, problem.targets)
    truth = by_rows(problem)
    torch.testing.assert_close(found, truth if quantity == "hessian" else truth.diagonal(), rtol=1e-12, atol=1e-14)


LAYERS = {
    "linear": lambda width: [nn.Linear(width, width), nn.Tanh()],
    "no_bias": lambda width: [nn.Linear(width, width, bias=False), nn.GELU()],
    "layer_norm": lambda width: [nn.LayerNorm(width), nn.Softplus()],
    "frozen": lambda width: [nn.Linear(width, width).requires_grad_(False), nn.SiLU()],
    "half_frozen": lambda width: [_without_bias_gradient(nn.Linear(width, width)), nn.Sigmoid()],
    "residual": lambda width: [_Residual(width)],
    "tied": lambda width: [_Tied(width)],
}
CRITERIA = {
    "cross_entropy": (lambda outputs: nn.CrossEntropyLoss(), "classes"),
    "weights": (lambda outputs: nn.CrossEntropyLoss(weight=draw(outputs).abs() + 0.1), "classes"),
    "ignoring": (lambda outputs: nn.CrossEntropyLoss(ignore_index=0, reduction="sum"), "classes"),
    "smoothed": (lambda outputs: nn.CrossEntropyLoss(label_smoothing=0.2), "classes"),
    "squares": (lambda outputs: nn.MSELoss(), "real"),
    "huber": (lambda outputs: nn.HuberLoss(delta=0.3), "real"),
    "per_sample": (lambda outputs: _weighted_softplus, "real"),
}


def _weighted_softplus(outputs, targets):
    return (functional.softplus(outputs - targets).sum(1) * torch.arange(1.0, len(outputs) + 1)).sum()


def _without_bias_gradient(layer):
    layer.bias.requires_grad_(False)
    return layer


class _Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(x).tanh()


class _Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return functional.linear(self.linear(x).tanh(), self.linear.weight.T) + self.linear(x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    criterion=st.sampled_from(sorted(CRITERIA)),
    sizes=st.tuples(*[st.integers(1, 4)] * 2, st.integers(2, 4), st.integers(1, 5)),
    tokens=st.integers(0, 3),
    memory_mb=st.sampled_from([1e-4, 256]),
    at_once=st.sampled_from([(1, 64), (2, 300), (products.TILE, contractions.CACHE)]),
)
def test_compositions_agree_with_rows(layers, criterion, sizes, tokens, memory_mb, at_once) -> None:
    inputs, width, outputs, batch = sizes
    make, kind = CRITERIA[criterion]
    modules = [nn.Linear(inputs, width), nn.Tanh(), *(module for name in layers for module in LAYERS[name](width))]
    if tokens:
        modules += [nn.Flatten(), nn.Linear(width * tokens, outputs)]
    else:
        modules.append(nn.Linear(width, outputs))
    targets = torch.arange(batch) % outputs if kind == "classes" else draw(batch, outputs, seed=2)
    if criterion == "ignoring" and not targets.any():
        return
    x = draw(batch, *([tokens] if tokens else []), inputs, seed=1)
    problem = network(nn.Sequential(*modules), x, targets, make(outputs))
    rows = by_rows(problem)
    tile, cache = at_once
    with mock.patch.object(products, "TILE", tile), mock.patch.object(contractions, "CACHE", cache):
        found = of(problem, memory_mb=memory_mb)
    assert float((found - rows).norm()) <= 1e-12 * max(float(rows.norm()), 1e-3)
    diagonal = factored.diagonal(problem.model, problem.criterion, problem.inputs, problem.targets)
    assert float((diagonal - rows.diagonal()).norm()) <= 1e-12 * max(float(rows.diagonal().norm()), 1e-3)


@pytest.mark.parametrize("task", ["classes", "regression"])
def test_networks_of_the_harness(task: str) -> None:
    for problem in (
        networks.mlp(inputs=7, width=9, depth=2, outputs=3, batch=5, task=task),
        networks.cnn(image=6, channels=3, outputs=2, batch=3, task=task),
        networks.lenet5(image=12, channels=(2, 3), widths=(7, 5), outputs=3, batch=2, task=task),
        transformers.transformer(width=6, heads=2, length=4, blocks=2, batch=2),
        transformers.gpt(vocabulary=5, width=4, length=3, expansion=2, blocks=2, batch=2),
    ):
        assert distance(of(problem), by_rows(problem)) < 1e-12


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_a_language_model_takes_no_rows(attention: str) -> None:
    """Causal attention, embeddings of tokens and of positions, targets for each position; by either attention."""
    problem = transformers.gpt(vocabulary=4, width=6, length=4, expansion=2, attention=attention, batch=3)
    given = (problem.model, problem.criterion, problem.inputs, problem.targets)
    assert set(factored.explain(*given).values()) == {"matrix products"}
    assert distance(factored.hessian(*given, fallback="error"), by_rows(problem)) < 1e-12


def test_embedding_tied_with_the_output_layer() -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.hidden = nn.Linear(3, 3)

        def forward(self, tokens):
            return functional.linear(self.hidden(self.embedding(tokens)).tanh(), self.embedding.weight).flatten(0, 1)

    tokens = torch.randint(7, (4, 2), generator=torch.Generator().manual_seed(0))
    problem = network(Model(), tokens, torch.arange(8) % 7)
    assert distance(of(problem), by_rows(problem)) < 1e-12


def test_a_penalty_in_the_criterion_is_differentiated() -> None:
    """The criterion closes over the parameters: here the truth is algebra, the data's Hessian plus 2 * 0.3 I."""
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    parameters = list(problem.model.parameters())

    def penalized(outputs, targets):
        return functional.cross_entropy(outputs, targets) + 0.3 * sum(p.square().sum() for p in parameters)

    found = factored.hessian(problem.model, penalized, problem.inputs, problem.targets)
    assert distance(found, by_rows(problem) + 0.6 * torch.eye(len(problem.theta), dtype=torch.float64)) < 1e-12
    diagonal = factored.diagonal(problem.model, penalized, problem.inputs, problem.targets)
    assert torch.allclose(diagonal, found.diagonal())


def test_a_penalty_that_is_not_entry_by_entry_takes_rows() -> None:
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    weight = problem.model[0].weight

    def penalized(outputs, targets):
        return functional.cross_entropy(outputs, targets) + weight.norm() * outputs.square().mean()

    theta, flat = problem.theta, problem.model
    found = factored.hessian(flat, penalized, problem.inputs, problem.targets)

    def loss(theta):
        parameters = dict(zip((name for name, _ in flat.named_parameters()), _parts(theta, flat), strict=True))
        outputs = torch.func.functional_call(flat, parameters, problem.inputs)
        return (
            functional.cross_entropy(outputs, problem.targets) + parameters["0.weight"].norm() * outputs.square().mean()
        )

    assert distance(found, create_graph_rows.hessian(loss, theta)) < 1e-12


def _parts(theta, model):
    parameters = list(model.parameters())
    return [part.view_as(p) for part, p in zip(theta.split([p.numel() for p in parameters]), parameters, strict=True)]


def test_out_is_written_in_place_and_may_be_a_file(tmp_path) -> None:
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    size = len(problem.theta)
    out = torch.from_file(str(tmp_path / "hessian.bin"), shared=True, size=size**2, dtype=torch.float64).view(
        size, size
    )
    assert of(problem, out=out) is out
    again = torch.from_file(str(tmp_path / "hessian.bin"), shared=True, size=size**2, dtype=torch.float64)
    assert distance(again.view(size, size), by_rows(problem)) < 1e-12


@pytest.mark.parametrize(
    "out", [torch.empty(2, 2, dtype=torch.float64), torch.empty(27, 27), torch.empty(27, 27, device="meta").double()]
)
def test_an_out_that_does_not_fit_is_refused(out) -> None:
    problem = networks.mlp(inputs=2, width=4, outputs=3, batch=6)
    assert len(problem.theta) == 27
    with pytest.raises(ValueError, match=r"the matrix is \(27, 27\) torch.float64 cpu"):
        of(problem, out=out)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    problem = networks.mlp(inputs=2, width=4, outputs=3, batch=6)
    with pytest.raises(ValueError, match=r"must be a scalar .* found \(6,\)"):
        factored.hessian(problem.model, nn.CrossEntropyLoss(reduction="none"), problem.inputs, problem.targets)


def test_samples_that_mix_are_noticed() -> None:
    """Each sample's loss depends on the mean over all: no layer's shifts tell samples apart."""

    def contrasted(outputs, targets):
        return functional.cross_entropy(outputs - outputs.mean(0) ** 2, targets)

    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    mixing = from_network(problem.model, contrasted, problem.inputs, problem.targets)
    assert distance(of(mixing), by_rows(mixing)) < 1e-12


def test_products_with_vectors() -> None:
    problem = transformers.transformer(width=6, heads=2, length=4, blocks=1, batch=2)
    vectors = draw(len(problem.theta), 3)
    found = factored.hvp(problem.model, problem.criterion, problem.inputs, problem.targets, vectors)
    assert float((found - by_rows(problem) @ vectors).norm() / found.norm()) < 1e-12


class _Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x * self.log.exp()


def test_only_what_is_needed_takes_rows() -> None:
    """A penalty on a weight, and a scale's logarithm beside it: the logarithm takes rows, the weight does not."""
    model = nn.Sequential(nn.Linear(3, 4), _Temperature(), nn.Tanh(), nn.Linear(4, 2))
    inputs, targets = draw(5, 3), torch.arange(5) % 2
    problem = network(model, inputs, targets)
    weight = model[0].weight

    def penalized(outputs, targets):
        return functional.cross_entropy(outputs, targets) + weight.square().sum()

    reasons = factored.explain(model, penalized, inputs, targets)
    assert {name for name, how in reasons.items() if how != "matrix products"} == {"1.log"}
    found = factored.hessian(model, penalized, inputs, targets)
    truth = by_rows(problem)
    truth.diagonal()[:12] += 2
    assert distance(found, truth) < 1e-12


def test_a_perceptron_takes_no_rows(monkeypatch) -> None:
    monkeypatch.setattr(rows, "products_of", None)
    of(networks.mlp(depth=2))


def test_a_layer_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.outer(self.inner(self.inner(x).tanh()).tanh())

    problem = network(Twice(), draw(5, 3), torch.arange(5) % 2)
    assert distance(of(problem), by_rows(problem)) < 1e-12


def test_many_samples_in_single_precision_do_not_seem_to_mix(monkeypatch) -> None:
    problem = networks.mlp(inputs=6, width=9, outputs=3, batch=2000)
    truth = by_rows(problem)
    monkeypatch.setattr(rows, "products_of", None)
    assert distance(of(problem.to("cpu", torch.float32)).double(), truth) < 1e-5


def test_arguments_that_mean_nothing_are_refused() -> None:
    problem = networks.mlp(inputs=2, width=4, outputs=3, batch=6)
    with pytest.raises(ValueError, match=r"memory_mb=-5 must be"):
        of(problem, memory_mb=-5)
    for vectors in (draw(27), draw(26, 2)):
        with pytest.raises(ValueError, match=r"they must be \(27, k\)"):
            factored.hvp(problem.model, problem.criterion, problem.inputs, problem.targets, vectors)


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)], 0),
        ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)], 0),
        ([nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Conv1d(2, 3, 2), nn.SiLU(), nn.Flatten()], 0),
        ([nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)], 1),  # mixes a sample's entries
        ([nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)], 1),  # mixes samples
    ],
)
def test_the_diagonal_is_propagated_through_entrywise_operations(layers, left: int) -> None:
    problem = network(nn.Sequential(*layers), draw(6, 3, seed=1), torch.arange(6) % 2, nn.CrossEntropyLoss())
    found, write_diagonal = [], propagation.write_diagonal

    def seen(*arguments):
        found.append(write_diagonal(*arguments))
        return found[-1]

    not_as_chain = mock.patch.object(sequential, "NUMBERS", 0)
    with not_as_chain, mock.patch.object(propagation, "write_diagonal", seen):
        diagonal = factored.diagonal(problem.model, problem.criterion, problem.inputs, problem.targets)
    assert [len(uses) for uses in found] == [left]
    assert float((diagonal - by_rows(problem).diagonal()).norm() / diagonal.norm()) < 1e-12


def test_a_model_that_computes_its_own_loss_needs_no_criterion():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)

    class OwnLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return {"loss": self.network(x).square().mean()}

    found = factored.hessian(OwnLoss(), None, inputs, None)
    expected = factored.hessian(network, lambda outputs, _: outputs.square().mean(), inputs, None)
    assert torch.equal(found, expected)
