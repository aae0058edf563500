"""Small networks that random ones led to: each was refused in torch's words, taken for another, or passed unseen."""

import pytest
import torch
from torch import Tensor, nn

from methods import factored
from methods.factoring.certificate import FallbackError
from methods.factoring.comparison import CertificateError

pytestmark = pytest.mark.usefixtures("matrix_products")

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """Two layers, and what a test does between them."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)
        self.between = between
        self.count = torch.zeros(())  # no buffer
        self.register_buffer("calls", torch.zeros(()))
        self.double()

    def forward(self, x):
        return self.last(self.between(self, x))


def squares(outputs, targets):
    return outputs.square().mean()


def rows(model: nn.Module, criterion=squares, x=X) -> Tensor:
    params = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(criterion(model(x), None), params, create_graph=True, materialize_grads=True)
    found = [
        torch.autograd.grad(entry, params, retain_graph=True, materialize_grads=True)
        for slope in slopes
        for entry in slope.flatten()
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in found])


def _with_inference_teacher(net, x):
    with torch.inference_mode():
        teacher = net.first(x)
    return net.first(x).tanh() - teacher


def _with_teacher(net, x):
    with torch.no_grad():
        teacher = net.first(x).exp()
    return net.first(x).tanh() * teacher


def _counting_in_a_buffer(net, x):
    net.calls += 1
    return net.first(x).tanh()


def _counting_in_an_attribute(net, x):
    net.count += 1
    return net.first(x).tanh()


def _vmapped(net, x):
    return torch.func.vmap(lambda row: net.first(row[None]).tanh()[0])(x)


@pytest.mark.parametrize(
    "between", [_with_inference_teacher, _with_teacher, _counting_in_a_buffer, _counting_in_an_attribute, _vmapped]
)
def test_ordinary_networks_are_taken(between) -> None:
    model = Net(between).eval()
    true = rows(model)
    calls = float(model.calls)
    assert torch.allclose(factored.hessian(model, squares, X, None), true, atol=1e-14)
    assert torch.allclose(factored.diagonal(model, squares, X, None), true.diagonal(), atol=1e-14)
    assert torch.allclose(factored.hvp(model, squares, X, None, true), true @ true, atol=1e-14)
    assert float(model.calls) == calls


def _random_slope(net, x):
    y = net.first(x)
    return y + (y - y.detach()) * torch.rand((), dtype=y.dtype)


def _random_slope_of_one(net, x):
    y = net.first(x)
    return torch.where(torch.arange(3) == 0, y + (y - y.detach()) * torch.rand((), dtype=y.dtype), y)


@pytest.mark.parametrize("between", [_random_slope, _random_slope_of_one])
@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp"])
@pytest.mark.filterwarnings("ignore::methods.factoring.certificate.FallbackWarning")
def test_a_gradient_that_is_drawn_at_random_is_found(between, quantity: str) -> None:
    """The value of the loss is always the same."""
    arguments = (torch.ones(20, 1, dtype=torch.float64),) if quantity == "hvp" else ()
    with pytest.raises(CertificateError):
        getattr(factored, quantity)(Net(between), squares, X, None, *arguments)


@pytest.mark.parametrize("seed", range(8))
def test_one_unit_that_is_dropped_half_of_the_time_is_noticed(seed: int) -> None:
    """Two evaluations are the same half of the time; twenty are with a probability of 1e-6."""
    model = Net(lambda net, x: net.first(x) * (torch.rand(()) < 0.5))
    torch.manual_seed(seed)
    with pytest.raises(ValueError, match="not deterministic"):
        factored.hvp(model, squares, X, None, torch.ones(20, 1, dtype=torch.float64))


def test_drawing_the_same_numbers_each_time_is_deterministic() -> None:
    def seeded(net, x):
        torch.manual_seed(3)
        return net.first(x).tanh() * torch.rand(3, dtype=x.dtype)

    model = Net(seeded)
    assert torch.allclose(factored.hessian(model, squares, X, None), rows(model), atol=1e-14)


@pytest.mark.parametrize("factor", [1e-24, 1e24])
def test_small_and_large_numbers_in_single_precision(factor: float) -> None:
    """Their squares vanish, or overflow."""
    model = Net(lambda net, x: net.first(x).tanh()).float()
    vector = torch.eye(20)[:, :3]

    def scaled(outputs, targets):
        return factor * outputs.square().mean()

    true = rows(model.double()) * factor
    model.float()
    found = factored.hvp(model, scaled, X.float(), None, vector).double()
    assert float((found - true[:, :3]).norm() / true[:, :3].norm()) < 1e-5
    found = factored.hessian(model, scaled, X.float(), None).double()
    assert float((found - true).norm() / true.norm()) < 1e-5


@pytest.mark.parametrize(
    "criterion", [lambda x, y: x.detach().sum(), lambda x, y: torch.tensor(x.tolist()).sum(), lambda x, y: X.sum()]
)
def test_a_loss_without_parameters_is_reported(criterion) -> None:
    with pytest.raises(ValueError, match="does not depend on the model's trainable parameters"):
        factored.hessian(Net(lambda net, x: net.first(x)), criterion, X, None)


def test_a_loss_that_is_not_a_number_is_reported() -> None:
    with pytest.raises(CertificateError, match="the loss is nan"):
        factored.diagonal(Net(lambda net, x: net.first(x).log()), squares, -X.abs(), None)


def test_no_samples() -> None:
    def total(outputs, targets):
        return outputs.square().sum()

    model = Net(lambda net, x: net.first(x).tanh())
    assert not factored.hessian(model, total, X[:0], None).any()
    assert not factored.diagonal(model, total, X[:0], None).any()


def test_fallback_error_is_for_rows_that_cost_more() -> None:
    """A layer that is not used costs nothing; one that is called twice has no quick diagonal."""
    unused = Net(lambda net, x: x)
    assert torch.allclose(factored.hessian(unused, squares, X, None, fallback="error"), rows(unused), atol=1e-14)
    twice = Net(lambda net, x: net.first(net.first(x).tanh()))
    assert torch.allclose(factored.hessian(twice, squares, X, None, fallback="error"), rows(twice), atol=1e-14)
    with pytest.raises(FallbackError, match="enters several affine maps"):
        factored.diagonal(twice, squares, X, None, fallback="error")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_huber_loss_takes_no_rows(reduction: str) -> None:
    """Torch has no forward mode of its gradient; here some outputs are within delta of the targets, and some beyond."""
    model = Net(lambda net, x: net.first(x).tanh())
    loss = nn.HuberLoss(reduction=reduction, delta=0.4)

    def huber(outputs, targets):
        return loss(outputs, torch.zeros_like(outputs))

    assert torch.allclose(factored.hessian(model, huber, X, None, fallback="error"), rows(model, huber), atol=1e-14)


def _inference_of_two(net, x):
    with torch.inference_mode():
        teacher = net.last(net.first(x)).sum(-1, keepdim=True)
    return net.first(x.sin()).tanh() - teacher


def test_inference_mode_of_what_was_shifted() -> None:
    """Torch's transforms do not enter inference mode: rows are taken, and no error of theirs is raised."""
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Tanh(), Net(_inference_of_two))
    assert torch.allclose(factored.hessian(model, squares, X, None), rows(model), atol=1e-14)
    assert torch.allclose(factored.diagonal(model, squares, X, None), rows(model).diagonal(), atol=1e-14)


class Frames(nn.Module):
    """Convolutions of frames that are merged into the batch, as of videos (N, T, ...)."""

    def __init__(self, convolution, size):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.size = convolution.double(), nn.Linear(2, 2).double(), size

    def forward(self, x):
        frames = self.first(x.view(-1, 1, *self.size)).tanh().flatten(2).mean(2)  # (N T, 2)
        return self.last(frames.view(len(x), -1, 2).cumsum(1))


@pytest.mark.parametrize(
    ("convolution", "size"),
    [(nn.Conv1d(1, 2, 2), (3,)), (nn.Conv2d(1, 2, 3), (3, 4)), (nn.Conv2d(1, 2, 2, stride=2, padding=1), (3, 3))],
)
def test_frames_in_the_batch_of_a_convolution(convolution, size) -> None:
    model = Frames(convolution, size)
    x = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = rows(model, x=x)
    found = factored.hessian(model, squares, x, None, fallback="error")
    assert torch.allclose(found, true, atol=1e-14)
    assert torch.allclose(factored.diagonal(model, squares, x, None), true.diagonal(), atol=1e-14)
