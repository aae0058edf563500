"""The block-diagonal Hessian from any Hessian: the loss as a function of one parameter tensor, the others fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def restricted(
    loss: Callable[[Tensor], Tensor], theta: Tensor, sizes: Sequence[int]
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Splits theta (P,) into parts (p,) of `sizes`; yields the loss as a function of each part alone, and the part.

    The Hessians (p, p) of these functions are the diagonal blocks of the Hessian of `loss`.
    """
    theta = theta.detach()
    parts = theta.split(list(sizes))
    for index, part in enumerate(parts):
        before, after = torch.cat([*parts[:index], theta[:0]]), torch.cat([*parts[index + 1 :], theta[:0]])

        def of_part(part: Tensor, before: Tensor = before, after: Tensor = after) -> Tensor:
            return loss(torch.cat([before, part, after]))

        yield of_part, part
