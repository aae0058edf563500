"""Your own network as a problem: a function that returns (model, criterion, inputs, targets).

From the folder in which `tests.examples.custom_problem` can be imported (here: the clone),

    python -m harness problem=custom problem._target_=tests.examples.custom_problem.my_problem
    python -m harness problem=custom problem._target_=tests.examples.custom_problem.my_problem +problem.hidden=32

The function's arguments are the problem's options. An argument called `seed` gets the harness's. Nothing of the
harness is imported here, and the model is left as it is: put it into eval mode where it has dropout or batch norm.
"""

import torch
from torch import Tensor, nn


class ResidualRegressor(nn.Module):
    """Two residual blocks between an embedding and a linear head."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, hidden)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).squeeze(-1)


def my_problem(hidden: int = 8, features: int = 5, samples: int = 40, seed: int = 0):
    """A small regression on made-up data."""
    torch.manual_seed(seed)
    model = ResidualRegressor(features, hidden)
    inputs = torch.randn(samples, features)
    targets = inputs[:, 0] * inputs[:, 1] + 0.1 * torch.randn(samples)
    return model, nn.SmoothL1Loss(), inputs, targets
