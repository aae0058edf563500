"""`torch.autograd.functional.hvp` and `vhp`: Hessian-vector products one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def hvp(loss: Callable[[Tensor], Tensor], theta: Tensor, vectors: Tensor, product: str = "hvp") -> Tensor:
    """Hessian of `loss` at `theta` (P,) times `vectors` ((P, k) -> (P, k)): one call of torch's function for each.

    `product="hvp"` applies reverse mode three times (the double-backward trick). `product="vhp"` is reverse over
    reverse, which torch's documentation calls faster. Both give the same, since the Hessian is symmetric. Raises
    ValueError for another product.
    """
    if product not in ("hvp", "vhp"):
        raise ValueError(f"product must be hvp or vhp; found {product}")
    of_vector = getattr(torch.autograd.functional, product)
    return torch.stack([of_vector(loss, theta, v)[1] for v in vectors.unbind(1)], dim=1)
