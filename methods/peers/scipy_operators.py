"""A map of torch's vectors as SciPy's iterative methods take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Operator:
    """A linear map of vectors (P,) like `like`. It has what SciPy asks for: shape, dtype and matvec."""

    def __init__(self, product: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.shape = like.numel(), like.numel()
        self.dtype = like.detach().cpu().numpy().dtype
        self._product, self._like = product, like

    def matvec(self, vector: Any) -> Any:
        """The map of an array (P,) or (P, 1), as an array (P,)."""
        return self._product(torch.from_numpy(vector.reshape(-1)).to(self._like)).cpu().numpy()
