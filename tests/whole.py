"""Methods that are slow or fail on a whole problem only, or whose source hides what they ask for; networks for them."""

import functools
import time

import torch
from torch import nn

from methods import create_graph_rows


def same(function):
    """A decorator behind which the source of a function does not show."""
    return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


@same
def decorated(model, criterion, inputs, targets):
    """Asks for the network, and refuses it."""
    raise TypeError(f"{type(model).__name__} is no network of mine")


assigned = functools.partial(decorated)


class Called:
    """Another way to hide the same."""

    def __call__(self, model, criterion, inputs, targets):
        """Refuse."""
        return decorated(model, criterion, inputs, targets)


called = Called()


def wrong_beyond(loss, theta):
    """Right up to 64 parameters, zero above."""
    return create_graph_rows.hessian(loss, theta) * (len(theta) <= 64)


def raises_beyond(loss, theta):
    """Right up to 64 parameters."""
    if len(theta) > 64:
        raise ValueError(f"{len(theta)} parameters are too many")
    return create_graph_rows.hessian(loss, theta)


def idle(loss, theta):
    """Right, and half a second too slow."""
    time.sleep(0.55)
    return create_graph_rows.hessian(loss, theta)


def asleep(loss, theta):
    """Does not return in time."""
    time.sleep(60)


class Flat(nn.Module):
    """Outputs (N,)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


class Slope(Flat):
    """The derivative in its inputs beside its value, within forward."""

    def forward(self, x):
        x = x.clone().requires_grad_()
        u = self.net(x).sum(1)
        return u + torch.autograd.grad(u.sum(), x, create_graph=True)[0].square().sum(1)


class Cube(torch.autograd.Function):
    """x^3, for reverse mode alone."""

    @staticmethod
    def forward(ctx, x):
        """x^3."""
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        """3 x^2."""
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Cubic(Flat):
    """A custom Function between its layers."""

    def forward(self, x):
        return self.net[2](Cube.apply(self.net[0](x)))[:, 0]


def network(kind, seed=0):
    """A regression on one of these networks, by its name."""
    torch.manual_seed(seed)
    model = {"flat": Flat, "slope": Slope, "cubic": Cubic}[kind]().double()
    return model, nn.MSELoss(), torch.randn(20, 5).double(), torch.randn(20).double()


class Named(nn.Module):
    """Takes a dict whose keys its forward does not name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, batch):
        """Outputs (N, 4)."""
        return torch.tanh(self.first(batch["x"]) + self.second(batch["z"]))


def named(key="z", seed=0):
    """A regression of 28 parameters on a dict; another `key` than `z` is not found by its network."""
    torch.manual_seed(seed)
    return Named(), nn.MSELoss(), {"x": torch.randn(8, 3), key: torch.randn(8, 2)}, torch.randn(8, 4)
