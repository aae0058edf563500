"""What the timed calls returned: enough of each result to tell, outside the clock, whether it was the one checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness import agreement, fingerprint
from harness.binding import Cell

STEADY = 0.01  # change of that number, over the norm, that leaves it the same result
BLOCK = 2**22  # entries of a half-precision result that are converted at once


class Witness:
    """Sees the results of timed calls; `fields` tells the launcher of them (`harness.truth.timed` judges).

    Of the first and of the last result it keeps the sketch, of every one a number: s^T R t with random signs s and t,
    for a vector s . d. A result that is off by E, in the Frobenius norm, changes that number by E times a
    variable of mean 0 and variance 1, and so goes unseen below a hundredth of E once in 100. Of calls in a block only
    the last result is seen.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._first: list[float] | None = None  # sketch
        self._last: Any = None  # result
        self._products: list[float] = []
        self._fault: str | None = None
        self._calls = 0
        self._checkable = True

    def see(self, result: Any) -> None:
        """Take the result of one call, or of the last in a block; it is held until the next `release`."""
        self._calls += 1
        if not self._checkable or self._fault is not None:
            return
        fault = self._read(result)
        if fault is not None and self._calls == 1:
            self._checkable = False  # the agreement pass will say so
        elif fault is not None:
            self._fault = f"{fault}, in sample {self._calls - 1} of those that are timed, though not in its first call"

    def _read(self, result: Any) -> str | None:
        """Keep what is kept of a result; what is wrong with it, or None."""
        cell = self._cell
        try:
            fault = agreement.contract(result, cell.job.quantity, cell.problem.theta, cell.vectors, cell.problem.sizes)
            if fault is None:
                self._products.append(product(result))
                self._first = self._first or fingerprint.sketch(tensors_of(result))
                self._last = result
        except Exception as error:
            fault = f"returned what cannot be read: {type(error).__name__}"
        return fault

    def release(self) -> None:
        """Free the last result, outside the clock."""
        self._last = None

    @property
    def number(self) -> float | None:
        """The number of the last result; None where the results differ among themselves, or cannot be judged."""
        if self._first is None or self._fault is not None:
            return None
        steady = abs(self._products[-1] - self._products[0]) <= STEADY * math.hypot(*self._first)
        return self._products[-1] if steady else None

    def fields(self) -> dict[str, Any]:
        """What `harness.truth.timed` wants to know of the results; the last one is freed.

        Numbers that are not finite are None, as in a record.
        """
        if self._fault is not None:
            return {"fault": {"status": "wrong", "message": f"{self._cell.job.target} {self._fault}"}}
        if self._first is None or self._last is None:
            return {}
        last = fingerprint.sketch(tensors_of(self._last))
        self.release()
        told = {"first": self._first, "last": last, "products": self._products}
        return {key: [entry if math.isfinite(entry) else None for entry in entries] for key, entries in told.items()}


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a result: the blocks of a block-diagonal, the value of an estimate."""
    if agreement.is_estimate(result):
        return [result.value]
    return list(result) if isinstance(result, tuple | list) else [result]


def product(result: Any) -> float:
    """The number s^T R t of a result with fixed random signs; of several tensors their sum."""
    with torch.no_grad():
        return sum(_product(tensor.detach(), place) for place, tensor in enumerate(tensors_of(result)))


def _product(tensor: Tensor, place: int) -> float:
    matrix = tensor.reshape(len(tensor), -1)
    exact = matrix.dtype in (torch.float64, torch.float32)
    kind = matrix.dtype if exact else torch.float32
    left, right = (signs(size, 2 * place + side, kind, tensor.device) for side, size in enumerate(matrix.shape))
    rows: Sequence[Tensor] = [matrix] if exact else matrix.split(max(1, BLOCK // matrix.shape[1]))
    sums = torch.cat([part.to(kind) @ right for part in rows])
    return float(left @ sums)


def signs(size: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random signs (size,), the same for the same seed."""
    drawn = torch.randint(2, (size,), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return (2 * drawn - 1).to(device, dtype)
