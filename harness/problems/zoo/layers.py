"""A layer within a network: between parameters before it and after it, so that every derivative of it counts."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems.networks import draw_parameters


def layer(
    *,
    seed: int = 0,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    shape: Sequence[int],
    times: int | None = None,
    train: bool = False,
    batch: int = 4,
) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Linear, the layer, Tanh, Linear, with softmax cross-entropy over two classes; in eval mode unless `train`.

    The layer is `torch.nn.<name>`, or whatever makes a module at a dotted path, called with `arguments`. It is given
    (batch, *shape), `times` times over (an attention takes it three times); with `times` the first of its outputs is
    taken.
    """
    generator = torch.Generator().manual_seed(seed)
    made = pkgutil.resolve_name(name if "." in name else f"torch.nn.{name}")(**(arguments or {}))
    inner = made if times is None else Repeated(made, times)
    layers = [nn.Linear(2, shape[-1]), inner, nn.Tanh(), nn.Flatten()]
    body = draw_parameters(nn.Sequential(*layers), generator)
    inputs = torch.randn(batch, *shape[:-1], 2, generator=generator, dtype=torch.float64)
    features = copy.deepcopy(body)(inputs).shape[1]
    model = nn.Sequential(*layers, draw_parameters(nn.Linear(features, 2), generator)).train(train)
    return model, nn.CrossEntropyLoss(), inputs, torch.randint(2, (batch,), generator=generator)


def lookup(
    *, seed: int = 0, name: str, arguments: Mapping[str, Any], shape: Sequence[int], batch: int = 4
) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """An embedding of indices (batch, *shape), Tanh, Linear, with softmax cross-entropy over two classes."""
    generator = torch.Generator().manual_seed(seed)
    made = draw_parameters(getattr(nn, name)(**arguments), generator)
    inputs = torch.randint(arguments["num_embeddings"], (batch, *shape), generator=generator)
    features = made(inputs).flatten(1).shape[1]
    model = nn.Sequential(made, nn.Tanh(), nn.Flatten(), draw_parameters(nn.Linear(features, 2), generator))
    return model, nn.CrossEntropyLoss(), inputs, torch.randint(2, (batch,), generator=generator)


class Repeated(nn.Module):
    """A module that is given its input several times, as an attention is; the first of its outputs."""

    def __init__(self, module: nn.Module, times: int) -> None:
        super().__init__()
        self.module, self.times = module, times

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the module makes of (batch, ...)."""
        outputs = self.module(*[x] * self.times)
        return outputs[0] if isinstance(outputs, tuple) else outputs
