"""A loss of torch.nn on the outputs of a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems.networks import draw_parameters


def loss(
    *,
    seed: int = 0,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    targets: str,
    outputs: int = 3,
    last: str | None = None,
    batch: int = 6,
) -> tuple[nn.Module, nn.Module, Tensor, Any]:
    """Linear, Tanh, Linear and, where given, the module `last`, under `torch.nn.<name>(**arguments)`.

    `targets` says what the loss compares with: a key of `TARGETS`. A loss of several inputs takes the outputs in parts.
    """
    generator = torch.Generator().manual_seed(seed)
    given = dict(arguments or {})
    if "weight" in given:
        given["weight"] = torch.tensor(given["weight"], dtype=torch.float64)
    made = getattr(nn, name)(**given)
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)]
    ends = {"Sigmoid": nn.Sigmoid(), "LogSoftmax": nn.LogSoftmax(-1), "Softplus": nn.Softplus()}
    model = draw_parameters(nn.Sequential(*layers, *([] if last is None else [ends[last]])), generator)
    inputs = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    criterion = InParts(made, PARTS[name]) if name in PARTS else made
    return model, criterion, inputs, TARGETS[targets](batch, outputs, generator)


# Losses that take several inputs, and how many.
PARTS = {
    "CosineEmbeddingLoss": 2,
    "MarginRankingLoss": 2,
    "TripletMarginLoss": 3,
    "TripletMarginWithDistanceLoss": 3,
    "GaussianNLLLoss": 2,
    "CTCLoss": 1,
}


class InParts(nn.Module):
    """A loss that takes its inputs apart from one tensor; for GaussianNLLLoss the second is a variance."""

    def __init__(self, loss: nn.Module, parts: int) -> None:
        super().__init__()
        self.loss, self.parts, self.reduction = loss, parts, "mean"

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        """The scalar loss of outputs (N, K) and targets."""
        if isinstance(self.loss, nn.CTCLoss):
            return self.loss(outputs[:, None].log_softmax(-1), targets[None], (len(outputs),), (len(targets),))
        parts = outputs.chunk(self.parts, dim=1)
        if isinstance(self.loss, nn.GaussianNLLLoss):
            return self.loss(parts[0], targets, parts[1].exp())
        if isinstance(self.loss, nn.MarginRankingLoss):
            parts = tuple(part[:, 0] for part in parts)
        return self.loss(*parts) if targets is None else self.loss(*parts, targets)


def _real(batch: int, outputs: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, outputs, generator=generator, dtype=torch.float64)


def _signs(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).double() * 2 - 1


# (batch, outputs, generator) -> targets
TARGETS = {
    "none": lambda batch, outputs, generator: None,
    "classes": lambda batch, outputs, generator: torch.randint(outputs, (batch,), generator=generator),
    "real": _real,
    "half": lambda batch, outputs, generator: _real(batch, outputs // 2, generator),
    "counts": lambda batch, outputs, generator: torch.randint(4, (batch, outputs), generator=generator).double(),
    "probabilities": lambda batch, outputs, generator: _real(batch, outputs, generator).softmax(-1),
    "zero_or_one": lambda batch, outputs, generator: torch.randint(2, (batch, outputs), generator=generator).double(),
    "signs": lambda batch, outputs, generator: _signs(batch, outputs, generator=generator),
    "sign": lambda batch, outputs, generator: _signs(batch, generator=generator),
    "label_lists": lambda batch, outputs, generator: torch.tensor([[0, 2, -1]] * batch),
    "labels": lambda batch, outputs, generator: torch.tensor([1, 2]),
}
