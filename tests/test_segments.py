"""A network in segments: the Hessian is the same wherever the tape is cut, and the tape knows when it cannot be run."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.problems import networks, transformers
from methods import factored
from methods.factoring import cuts, jacobian, segmented
from methods.factoring.jacobian import Jacobian, Term
from methods.factoring.network import Network
from methods.factoring.scratch import Scratch
from methods.factoring.tape import Tape, replay
from tests.test_factored import draw
from tests.test_small_problems import arguments

pytestmark = pytest.mark.usefixtures("matrix_products")


class Net(nn.Module):
    """Layers, and a function that calls them."""

    def __init__(self, call: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self, x)


def _skip(m, x):
    first = m.a(x).tanh()
    second = m.b(first).sigmoid()
    return m.c(torch.cat([m.b(second).tanh(), first], dim=-1) * second.mean(-1, keepdim=True))


def _tokens(m, x):
    x = x[:, None] * torch.linspace(0.5, 1.5, 5, dtype=x.dtype)[:, None]  # (N, 5, 3)
    x = x + m.b(m.n(m.a(x))).tanh()
    weights = (m.q(x) @ x.mT).softmax(-1)
    return m.c((weights @ x).cumsum(1).flatten(1))


def _in_place(m, x):
    hidden = m.a(x)
    hidden.mul_(2.0)
    return m.c(hidden.tanh())


def _network(call, **layers) -> tuple:
    torch.manual_seed(3)
    model = Net(call, **layers).double()
    return model, nn.CrossEntropyLoss(), draw(4, 3, seed=1), torch.arange(4) % 3


L = nn.Linear
NETWORKS = {
    "perceptron": lambda: arguments(networks.mlp(inputs=4, width=5, depth=3, outputs=3, batch=6)),
    "convolutional": lambda: arguments(networks.cnn(image=6, channels=3, outputs=2, batch=3)),
    "lenet": lambda: arguments(networks.lenet5(image=12, channels=(2, 3), widths=(7, 5), outputs=3, batch=2)),
    "transformer": lambda: arguments(transformers.transformer(width=6, heads=2, length=4, blocks=1, batch=2)),
    "skip": lambda: _network(_skip, a=L(3, 4), b=L(4, 4), c=L(8, 3)),
    "tokens": lambda: _network(_tokens, a=L(3, 4), n=nn.LayerNorm(4), b=L(4, 3), q=L(3, 3), c=L(15, 3)),
    "in_place": lambda: _network(_in_place, a=L(3, 4), c=L(4, 3)),
}


def _everywhere(flow: cuts.Flow, memory: float) -> list[cuts.Cut]:
    found = [flow.cut(place) for place in range(1, len(flow.steps))]
    return [cut for cut in found if cut is not None]


def _narrow(flow: cuts.Flow, memory: float) -> list[cuts.Cut]:
    with mock.patch.multiple(cuts, SEGMENT=0.0, BEHIND=0.0):
        return cuts.choose(flow, memory)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_hessian_is_the_same_wherever_the_network_is_cut(name: str) -> None:
    given = NETWORKS[name]()
    found = {}
    for choice in (_everywhere, _narrow, lambda flow, memory: []):
        with mock.patch.object(segmented, "choose", choice):
            found[choice] = factored.hessian(*given, fallback="error")
    whole = found.popitem()[1]
    for hessian in found.values():
        torch.testing.assert_close(hessian, whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


def test_positions_that_a_segment_treats_separately_are_found() -> None:
    model, criterion, inputs, targets = NETWORKS["transformer"]()
    network = Network(model, criterion, inputs, targets, by_entries=True)
    with mock.patch.object(segmented, "choose", _narrow):
        found = segmented.segmented(network, set(network.params), 1e9)
    assert {segment.positions for segment in found.segments} == {1, 4}


def test_without_memory_for_them_there_are_no_cuts() -> None:
    model, criterion, inputs, targets = NETWORKS["transformer"]()
    network = Network(model, criterion, inputs, targets, by_entries=True)
    assert len(segmented.segmented(network, set(network.params), 0.0).segments) == 1
    assert len(segmented.segmented(network, set(network.params), 1e9).segments) > 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tape_gives_the_same_loss_again_or_is_known_not_to(name: str) -> None:
    model, criterion, inputs, targets = NETWORKS[name]()
    network, tape = Network(model, criterion, inputs, targets, by_entries=True), Tape()
    loss, calls, _ = network.traced(network.params, tape)
    steps = tape.active(loss)
    assert (steps is None) == (name == "in_place")
    if steps is not None:
        values: dict[int, Tensor] = {}
        replay(steps, values, calls, {})
        assert torch.equal(values[id(loss)], loss)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.c(_Doubled.apply(m.a(x)).tanh()),
        lambda m, x: m.c(torch.func.vmap(torch.tanh)(m.a(x))),
        lambda m, x: m.c(functional.relu(m.a(x), inplace=True).sin()),
    ],
    ids=["custom function", "a transform within", "in place by an option"],
)
def test_a_tape_that_does_not_see_everything_is_not_run(call) -> None:
    model, criterion, inputs, targets = _network(call, a=L(3, 4), c=L(4, 3))
    network, tape = Network(model, criterion, inputs, targets), Tape()
    loss, _, _ = network.traced(network.params, tape)
    assert tape.active(loss) is None


@pytest.mark.parametrize("moved", [0, 100], ids=["by kinds", "dense"])
@pytest.mark.parametrize("add", [False, True])
def test_a_product_with_a_sparse_jacobian_is_the_dense_one(moved: int, add: bool) -> None:
    """Of heads that see their own columns alone, rows of zeros, and a tensor that only passes through."""
    left = draw(3, 2, 6, 8, seed=1)
    left[:, :, :3, 4:] = 0
    left[:, :, 3:5, :4] = 0
    left[:, 1, 5] = 0
    matrix, start = draw(3, 20, 7, seed=2), draw(3, 12, 7, seed=3)
    dense = left.flatten(1, 2) @ matrix[:, :8] + matrix[:, 8:] + (start if add else 0)
    with mock.patch.object(jacobian, "MOVED", moved):
        terms = [Term(slice(0, 8), left, False), Term(slice(8, 20), None, False)]
        assert (terms[0].kinds is None) == (moved == 100)
        result = start.clone()
        Jacobian(terms).put_product(matrix, result, Scratch(), add)
    torch.testing.assert_close(result, dense, rtol=1e-12, atol=1e-12)
