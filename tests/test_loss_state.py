"""Losses that keep a state between calls, which no Hessian can be asked of, and harmless ones that look like them."""

import pytest
import torch
from torch import nn

from harness.problems import ProblemError, build, check, from_function, from_network

X, Y = (torch.randn(6, width, generator=torch.Generator().manual_seed(0)) for width in (3, 2))
KEPT = "state between calls"


class Caching(nn.Module):
    """Keeps what its first layer made of its inputs when it was first called, as `kept` says."""

    def __init__(self, kept=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.kept, self.cache = nn.Linear(3, 4), nn.Linear(4, 2), kept, None

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if self.kept is not None and self.cache is None:
            self.cache = self.kept(hidden)
        return self.second(hidden if self.cache is None else self.cache)


def caching():
    """A network that caches an activation."""
    return Caching(lambda hidden: hidden), nn.MSELoss(), X, Y


def caching_detached():
    """A network that caches an activation without its graph."""
    return Caching(torch.Tensor.detach), nn.MSELoss(), X, Y


def counting(calls=6):
    """A loss with a warm-up of some calls."""
    count = [0]

    def objective(point):
        count[0] += 1
        return (1 + (count[0] > calls)) * point.square().sum()

    return objective, torch.ones(3)


def counting_long():
    """The same with a longer warm-up."""
    return counting(9)


KEPT_FOR_ALL = {}


def cached_globally():
    """A loss that keeps among the globals what it was first called with, for all copies of it."""
    KEPT_FOR_ALL.clear()
    return lambda point: (KEPT_FOR_ALL.setdefault("p", point.exp()) * point).sum(), torch.ones(3)


BUILDERS = (caching, caching_detached, counting, counting_long, cached_globally)


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_loss_with_a_state_is_refused(builder) -> None:
    with pytest.raises(ProblemError, match=KEPT):
        check(build(f"tests.test_loss_state.{builder.__name__}", {}).to("cpu", torch.float64))


@pytest.mark.parametrize("builder", BUILDERS)
def test_it_is_refused_where_it_was_not_built_by_name(builder) -> None:
    model, *rest = builder()
    with pytest.raises(ProblemError, match=KEPT):
        check(from_network(model, *rest) if isinstance(model, nn.Module) else from_function(model, *rest))


def test_what_a_loss_may_keep() -> None:
    class Logging(Caching):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            self.activation = super().forward(x)
            return self.activation

    for dtype in (torch.float64, torch.float32):
        check(from_network(Logging(), nn.MSELoss(), X, Y).to("cpu", dtype))
        check(from_network(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.MSELoss(), X, Y).to("cpu", dtype))
        kinked = from_function(lambda point: point.abs().sum() + point.square().sum(), torch.zeros(3))
        check(kinked.to("cpu", dtype))
