"""Each sample's own Hessian in a loop over the samples, by backward passes through the graph of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from methods import create_graph_rows

SampleLoss = Callable[[Tensor, Any], Tensor]


def hessian(sample_loss: SampleLoss, points: Tensor, samples: Any) -> Tensor:
    """Each sample's Hessian (N, D, D): D backward passes for each sample."""
    return torch.stack(
        [create_graph_rows.hessian(loss, point) for loss, point in _losses(sample_loss, points, samples)]
    )


def diagonal(sample_loss: SampleLoss, points: Tensor, samples: Any) -> Tensor:
    """The diagonals (N, D): one entry of each row."""
    found = [create_graph_rows.diagonal(loss, point) for loss, point in _losses(sample_loss, points, samples)]
    return torch.stack(found)


def trace(sample_loss: SampleLoss, points: Tensor, samples: Any) -> Tensor:
    """The traces (N,): one entry of each row, added up."""
    return diagonal(sample_loss, points, samples).sum(1)


def hvp(sample_loss: SampleLoss, points: Tensor, samples: Any, vectors: Tensor) -> Tensor:
    """Each sample's Hessian times its vectors ((N, D, m) -> (N, D, m)): m backward passes for each sample."""
    losses = _losses(sample_loss, points, samples)
    return torch.stack(
        [create_graph_rows.hvp(loss, point, v) for (loss, point), v in zip(losses, vectors, strict=True)]
    )


def _losses(
    sample_loss: SampleLoss, points: Tensor, samples: Any
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Each sample's loss as a function of its point, and the point (D,)."""
    for place, point in enumerate(points):
        sample = tree_map(lambda leaf, place=place: leaf[place], samples)
        yield partial(_at, sample_loss, sample), point


def _at(sample_loss: SampleLoss, sample: Any, point: Tensor) -> Tensor:
    return sample_loss(point, sample)
