"""Random probes, norms, a comparison up to rounding errors, and slices.

What is compared stays a tensor on the device. The CPU waits for a GPU when it reads one, so several are read at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_EACH_NORM = vars(torch)["_foreach_norm"]  # of several tensors at once, as torch's optimisers take it


def drawn(like: Tensor, seed: int = 0) -> Tensor:
    """Standard normal numbers in the shape, dtype and device of `like`; the same ones at every call.

    They come from a generator of their own, so that torch's global generator keeps its state.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64, device=like.device).to(like.dtype)


def norm(x: Tensor) -> Tensor:
    """The norm () in float64, where squares of float32 neither overflow nor vanish."""
    return x.double().norm()


def norms(parts: Iterable[Tensor]) -> Sequence[Tensor]:
    """The `norm` () of each of several tensors, in few operations."""
    return _EACH_NORM([part.double() for part in parts])


def values(numbers: Iterable[Tensor]) -> list[float]:
    """The values of tensors (), read at once."""
    return torch.stack([number.detach().double() for number in numbers]).tolist()


def close(difference: Tensor, to: Tensor) -> Tensor:
    """Whether () a difference is only rounding: its norm is at most 1,000 machine epsilons of the norm of `to`."""
    small = 1000 * torch.finfo(to.dtype).eps
    return norm(difference) <= small * norm(to)


def every(conditions: Iterable[Tensor]) -> Tensor:
    """Whether () all conditions () hold."""
    return torch.stack(list(conditions)).all()


def slices(start: int, stop: int, step: int) -> list[slice]:
    """The slices of length `step` that cover start to stop; the last may be shorter."""
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def one_hot(columns: slice, width: int, like: Tensor) -> Tensor:
    """The rows (c, width) of the identity at `columns`, in the dtype and on the device of `like`."""
    rows = like.new_zeros(columns.stop - columns.start, width)
    rows.diagonal(columns.start).fill_(1)
    return rows
