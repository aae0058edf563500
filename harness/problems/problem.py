"""The problem: a scalar loss of one flat parameter vector, with the network behind it where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Criterion = Callable[..., Tensor]  # (outputs, targets) -> ()
Weights = str | Callable[[Any, Any], float] | None  # how batches are weighed, as in `methods.batches`


@dataclass(frozen=True)
class Problem:
    """A loss and the point at which its Hessian is asked for; built by `from_network` or `from_function`."""

    loss: Callable[[Tensor], Tensor]  # (P,) -> (), without side effects
    theta: Tensor  # (P,), detached
    sizes: tuple[int, ...]  # of the parameter tensors that theta is made of, in its order
    to: Callable[[torch.device | str, torch.dtype], Problem]  # the same problem on another device, in another dtype
    model: torch.nn.Module | None = None
    outputs: Callable[[Tensor], Any] | None = None  # (P,) -> the model's outputs
    criterion: Criterion | None = None
    inputs: Any = None
    targets: Any = None
    batch_sizes: tuple[int, ...] | None = None  # samples in each batch that a method is called on; None for all at once
    batch_weights: Weights = None
    whole: int | None = None  # parameters of the problem of which this one has some (`chosen`, `subset`)
    data: tuple[Any, ...] = ()  # what the objective of a function needs beside its parameters
    hessian: Callable[[], Tensor] | None = None  # () -> (P, P), the closed form at theta; (N, D, D) of each sample
    input_hessian: Callable[[], Tensor] | None = None  # () -> (N, D, D), that of each sample's loss in its input
    leaves: tuple[Tensor, ...] = ()  # the user's parameter tensors, which theta is a copy of; none of a `subset`
    plain: Callable[[], Tensor] | None = None  # () -> (), the loss as the user computes it, at what the leaves now hold
    # Of `per_sample`, whose theta is that of all samples together; None of other problems.
    sample_loss: Callable[[Tensor, Any], Tensor] | None = None  # a point (D,) and its sample -> ()
    points: Tensor | None = None  # (N, D), in the memory of theta
    samples: Any = None  # tensors (N, ...) that the samples' losses need, in a tuple
