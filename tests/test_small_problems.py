"""Small networks, whose rows cost less than matrix products: both give the same matrix, and it is checked."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from harness.problems import networks, transformers
from methods import batched_rows, factored
from methods.factoring import costs, rows, sequential, sums
from methods.factoring.certificate import FallbackWarning
from methods.factoring.comparison import CertificateError
from methods.factoring.costs import cheap_rows, size_of
from methods.factoring.network import Network
from tests.oracles import distance

LAYERS = {
    "linear": lambda width: nn.Linear(width, width),
    "tanh": lambda width: nn.Tanh(),
    "gelu": lambda width: nn.GELU(),
    "norm": lambda width: nn.LayerNorm(width),
    "frozen": lambda width: nn.Linear(width, width).requires_grad_(False),
}


def arguments(problem):
    return problem.model, problem.criterion, problem.inputs, problem.targets


def by(rule, *given, **options):
    """The Hessian by rows (an unbounded price of products) or by matrix products (a price of zero)."""
    with mock.patch.object(costs, "PRODUCTS", {"rows": math.inf, "products": 0}[rule]):
        return factored.hessian(*given, **options)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    sizes=st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(2, 6)),
    fewest=st.sampled_from([1, 5, 32]),
    tokens=st.integers(0, 2),
)
def test_rows_and_products_give_one_matrix(names, sizes, fewest, tokens) -> None:
    """With one batch of rows or several, of which each leaves out the columns that earlier ones give."""
    inputs, width, samples = sizes
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, width), nn.Tanh(), *(LAYERS[name](width) for name in names), nn.Linear(width, 3)]
    model, shape = nn.Sequential(*layers).double(), (samples, *[2] * tokens)

    def criterion(outputs):
        return outputs.exp().sum(-1).log().square().mean() + sum(p.square().sum() for p in model.parameters())

    x = torch.randn(*shape, inputs, dtype=torch.float64)
    with mock.patch.object(costs, "FEWEST", fewest), mock.patch.object(costs, "OPERATION", 1):
        found = by("rows", model, criterion, x, None)
    true = by("products", model, criterion, x, None)
    assert torch.equal(found, found.T) or torch.allclose(found, found.T, rtol=1e-10, atol=1e-12)
    assert distance(found, true) < 1e-10


@pytest.mark.parametrize("samples", [3, 4])
def test_rows_of_several_batches_and_of_a_part(samples: int) -> None:
    problem = networks.mlp(inputs=3, width=4, outputs=3, batch=6)
    criterion = nn.CrossEntropyLoss(reduction="sum")
    whole = by("products", problem.model, criterion, problem.inputs, problem.targets)
    parts = [
        (criterion, problem.inputs[part], problem.targets[part]) for part in (slice(samples), slice(samples, None))
    ]
    assert "rows cost less" in str(factored.explain(problem.model, *parts[0]))
    assert distance(factored.hessian_over_batches(problem.model, parts), whole) < 1e-12
    some = factored.hessian_rows(problem.model, parts, slice(5, 17))
    assert distance(some, whole[5:17]) < 1e-12


def test_rows_beside_products_of_another_batch() -> None:
    """One batch by rows and one by products, of a network with parameters that take rows in the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()
    batches = [(nn.CrossEntropyLoss(), torch.randn(5, 3).double(), torch.arange(5) % 3) for _ in range(2)]
    whole = sum(by("products", model, *batch) for batch in batches)
    for order in ([1, 0], [0, 1]):
        cheap = iter([costs.CheapRows("", 7, 1) if chosen else None for chosen in order])
        with mock.patch.object(sums, "cheap_rows", lambda *_, cheap=cheap: next(cheap)):
            assert distance(factored.hessian_over_batches(model, batches), whole) < 1e-12


def test_they_are_no_fallback() -> None:
    """Nor for parameters that would take slow rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    given = model, nn.CrossEntropyLoss(), torch.randn(5, 3).double(), torch.arange(5) % 3
    reasons = factored.explain(*given)
    assert list(reasons) == [name for name, _ in model.named_parameters()]
    assert all(reason.startswith("rows cost less: ") for reason in reasons.values())
    strict = factored.hessian(*given, fallback="error")
    assert distance(strict, by("products", *given)) < 1e-12


def test_an_error_of_batched_passes_is_found_and_mended() -> None:
    problem = networks.mlp(inputs=3, width=4, outputs=3, batch=6)
    right = factored.hessian(*arguments(problem))
    vjps = rows.vjps

    def wrong(outputs, inputs, cotangents):
        products = vjps(outputs, inputs, cotangents)
        return [product * 1.001 if len(product) > 1 else product for product in products]

    with mock.patch.object(rows, "vjps", wrong), pytest.warns(FallbackWarning, match="off by"):
        found = factored.hessian(*arguments(problem))
    assert distance(found, right) < 1e-12


def test_a_derivative_that_is_not_symmetric() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.tanh()

        @staticmethod
        def backward(context, slope):
            (x,) = context.saved_tensors
            return slope * torch.arange(1.0, 5) * x.roll(1, -1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()

        def forward(self, x):
            return self.other(Wrong.apply(self.one(x)))

    torch.manual_seed(0)
    given = Model(), nn.CrossEntropyLoss(), torch.randn(5, 3).double(), torch.arange(5) % 3
    assert "rows cost less" in str(factored.explain(*given))
    with pytest.raises(CertificateError, match="not symmetric"):
        factored.hessian(*given)


def test_a_loss_that_draws_or_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 3)).double()
    given = nn.CrossEntropyLoss(), torch.randn(5, 3).double(), torch.arange(5) % 3
    calls = []

    def changing(outputs, targets):
        calls.append(None)
        return outputs.square().mean() * len(calls)

    for function in (factored.hessian, factored.explain, factored.diagonal):
        with pytest.raises(ValueError, match="not deterministic"):
            function(model, *given)
        with pytest.raises(ValueError, match="not deterministic"):
            function(model.eval(), changing, *given[1:])
        model.train()


@pytest.mark.parametrize(
    ("problem", "cheap"),
    [
        (networks.mlp(inputs=8, width=6, outputs=4, batch=64), True),
        (networks.mlp(inputs=64, width=6, outputs=10, batch=16), True),
        (networks.mlp(inputs=64, width=6, outputs=10, batch=256), False),
        (networks.mlp(inputs=8, width=6, depth=10, outputs=4, batch=256), True),
        (networks.mlp(inputs=64, width=26, outputs=10, batch=256), False),
        (transformers.bert(vocabulary=7, width=4, heads=2, length=4, blocks=1, batch=2), True),
    ],
)
def test_the_rule(problem, cheap: bool) -> None:
    """Few samples, and many operations for as many parameters, are for rows. The rule depends on shapes alone."""
    loss = problem.criterion(problem.model(problem.inputs), problem.targets)
    params = dict(problem.model.named_parameters())
    gradients = dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True), strict=True))
    found = cheap_rows(gradients, len(problem.inputs))
    assert (found is not None) == cheap
    assert found is None or 1 <= found.at_once <= len(problem.theta)
    assert found is None or found.fitting(0.0, problem.theta) == min(costs.FEWEST, found.at_once)


def test_the_size_of_a_graph() -> None:
    x = torch.ones(3, requires_grad=True)
    size = size_of([x.sin().sum()])
    assert size == (3, 3 + 3 + 1) or size == (3, 3 + 1)  # the leaf, sin and sum; the leaf's own results depend on torch
    assert size_of([torch.ones(2)]) == (0, 0)


CHAINS = {
    "perceptron": lambda: [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)],
    "deep": lambda: [nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)],
    "linear": lambda: [nn.Linear(3, 4), nn.Linear(4, 3)],
    "kinked": lambda: [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softplus()],
    "alone": lambda: [nn.Linear(3, 3)],
    "no_bias": lambda: [nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 3)],
}
OTHERS = {
    "softmax": lambda: [nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 3)],
    "normalised": lambda: [nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Tanh(), nn.Linear(4, 3)],
    "mixed": lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Tanh(), nn.Linear(4, 3)],
    "frozen": lambda: [nn.Linear(3, 4), nn.Linear(4, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 3)],
}


@pytest.mark.parametrize("name", [*CHAINS, *OTHERS])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_diagonal_of_a_chain(name: str, reduction: str) -> None:
    """What looks like a chain and is none is found by the check, and computed otherwise without a warning."""
    torch.manual_seed(0)
    model = nn.Sequential(*(CHAINS | OTHERS)[name]()).double()
    given = model, nn.CrossEntropyLoss(reduction=reduction), torch.randn(5, 3).double(), torch.arange(5) % 3
    written, write = [], factored._written_as_chain
    with mock.patch.object(factored, "_written_as_chain", lambda *all: written.append(write(*all)) or written[-1]):
        found = factored.diagonal(*given)
    assert written == [name in CHAINS]
    assert distance(found, by("rows", *given).diagonal()) < 1e-12
    with mock.patch.object(sequential, "NUMBERS", 0):
        assert distance(factored.diagonal(*given), found) < 1e-12


def test_batched_passes_in_turn_where_torch_cannot_batch() -> None:
    problem = networks.mlp(inputs=3, width=4, outputs=3, batch=6)
    right = batched_rows.hessian(problem.loss, problem.theta)
    with mock.patch.object(torch.func, "vmap", side_effect=RuntimeError("Batching rule not implemented")):
        assert distance(factored.hessian(*arguments(problem)), right) < 1e-12


def test_the_rows_of_a_part_are_those_of_the_whole() -> None:
    problem = networks.mlp(inputs=3, width=4, outputs=3, batch=6)
    whole = factored.hessian(*arguments(problem))
    network = Network(*arguments(problem))
    assert network.samples == 6
    given = [(problem.criterion, problem.inputs, problem.targets)]
    assert distance(factored.hessian_rows(problem.model, given, slice(3, 9)), whole[3:9]) < 1e-12
