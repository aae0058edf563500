"""Builders and losses that raise, for the tests of what is said of them."""

import torch
from torch import nn

X, Y = torch.ones(4, 3), torch.zeros(4, 2)


def raising():
    """A builder that asks a dict for what it lacks."""
    return {}["data"]


def exiting():
    """A builder that ends the process."""
    raise SystemExit(3)


def failing(kind):
    """A network, `kind` of whose parts does not fit the others."""

    def criterion(outputs, targets):
        raise KeyError("weights")

    return {
        "criterion": (nn.Linear(3, 2), criterion, X, Y),
        "classes": (nn.Linear(3, 2), nn.CrossEntropyLoss(), X, torch.zeros(4)),
        "columns": (nn.Linear(3, 2), nn.CrossEntropyLoss(), X, torch.zeros(4, 1).long()),
        "range": (nn.Linear(3, 2), nn.CrossEntropyLoss(), X, torch.full((4,), 2)),
        "numpy": (nn.Linear(3, 2), nn.MSELoss(), X.numpy(), Y),
        "numpy_targets": (nn.Linear(3, 2), nn.MSELoss(), X, Y.numpy()),
        "no_targets": (nn.Linear(3, 2), nn.MSELoss(), X),
        "objective": (lambda p: p.nothing, X),
    }[kind]
