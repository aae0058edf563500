"""Problems and methods that torch or they themselves warn of, and a method that tells how it does each parameter."""

import warnings

import torch
from torch import nn

from methods.create_graph_rows import hessian as rows

USUAL = "matrix products"


def squeezed(seed=0):
    """Outputs (6, 1) against targets (6,): the loss broadcasts to (6, 6)."""
    torch.manual_seed(seed)
    return nn.Linear(3, 1), nn.MSELoss(), torch.randn(6, 3), torch.randn(6)


def smooth(seed=0):
    """The same under another loss."""
    model, _, inputs, targets = squeezed(seed)
    return model, nn.SmoothL1Loss(), inputs, targets


def sized(seed=0):
    """A deprecated argument of the loss."""
    model, _, inputs, targets = squeezed(seed)
    return model, lambda outputs, y: nn.functional.mse_loss(outputs, y[:, None], size_average=True), inputs, targets


class Noted(nn.Module):
    """Warns of its own, with a path of the machine, at each call."""

    def forward(self, x):
        warnings.warn(f"weights of /home/someone/secret/w{len(x)}.pt are old", stacklevel=1)
        return x


def noted(seed=0):
    """A module that warns."""
    model, loss, inputs, targets = squeezed(seed)
    return nn.Sequential(model, Noted()), loss, inputs, targets[:, None]


def quiet(seed=0):
    """A network of which nothing is to be said."""
    model, loss, inputs, targets = squeezed(seed)
    return model, loss, inputs, targets[:, None]


def hessian(loss, theta):
    """Right, with a warning."""
    warnings.warn("there is a performance drop here", stacklevel=1)
    return rows(loss, theta)


def ggn(loss, theta):
    """Right, and silent."""
    return rows(loss, theta)


def explain(model, quantity):
    """As `methods.factored` has it."""
    assert quantity == "hessian"
    return {name: USUAL if name.endswith("bias") else "samples depend" for name, _ in model.named_parameters()}
