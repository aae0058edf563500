"""The block-diagonal Hessian out of any Hessian: a loss of one parameter tensor at a time, the others held fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def restricted(
    loss: Callable[[Tensor], Tensor], theta: Tensor, sizes: Sequence[int]
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """For each part of theta ((P,), split into `sizes`) the loss as a function of it alone, and the part.

    The Hessians (p, p) of these are the diagonal blocks of the Hessian of `loss`.
    """
    theta = theta.detach()
    parts = theta.split(list(sizes))
    for index, part in enumerate(parts):
        before, after = torch.cat([*parts[:index], theta[:0]]), torch.cat([*parts[index + 1 :], theta[:0]])

        def of_part(part: Tensor, before: Tensor = before, after: Tensor = after) -> Tensor:
            return loss(torch.cat([before, part, after]))

        yield of_part, part
