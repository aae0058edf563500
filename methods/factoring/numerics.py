"""Random probes, a comparison up to rounding errors, and slices."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn(like: Tensor) -> Tensor:
    """Standard normal numbers in the shape, dtype and device of `like`; the same ones at every call.

    They come from a generator of their own, so that torch's global generator keeps its state.
    """
    numbers = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return numbers.to(like)


def close(difference: Tensor, to: Tensor) -> bool:
    """Whether a difference is only rounding: its norm is at most 1,000 machine epsilons of the norm of `to`."""
    small = 1000 * torch.finfo(to.dtype).eps
    return bool(difference.double().norm() <= small * to.double().norm())


def slices(start: int, stop: int, step: int) -> list[slice]:
    """The slices of length `step` that cover start to stop; the last may be shorter."""
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def one_hot(columns: slice, width: int, like: Tensor) -> Tensor:
    """The rows (c, width) of the identity at `columns`, in the dtype and on the device of `like`."""
    index = torch.arange(columns.start, columns.stop, device=like.device)
    return torch.nn.functional.one_hot(index, width).to(like)
