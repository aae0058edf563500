"""What the timed calls returned: enough of each result to see, outside the clock, whether it is the one checked."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.measure import ranks
from harness.problems.binding import BoundMethod
from harness.truth import sketch
from harness.truth.results import ResultFault, plain, result_fault, result_tensors

STEADY = 0.01  # change of the number of a result, over the norm, up to which it is the same result


class ResultRecorder:
    """Records numbers of the results of timed calls; `fields` gives them to the launcher.

    It keeps 32 numbers of the first and of the last result, and one number of every result R: s^T R t, with random
    signs s and t (`harness.truth.sketch.bilinear`). A result that is off by E, in the Frobenius norm, changes that
    number by E times a variable of mean 0 and variance 1: by less than E / 100 once in 100. Of a block of calls, only
    the last result is recorded. `harness.truth.timed_results` judges the numbers.
    """

    def __init__(self, bound: BoundMethod) -> None:
        self._bound = bound
        self._first: list[float] | None = None  # numbers of the first result
        self._held: Any = None  # the last result
        self._products: list[float] = []
        self._fault: str | None = None
        self._calls = 0
        self._checkable = True

    def see(self, result: Any) -> None:
        """Record the result of one call, or of the last in a block; it is held until the next `release`."""
        self._calls += 1
        if not self._checkable or self._fault is not None:
            return
        fault = self._read(result)
        if fault is not None and ranks.count() > 1:
            raise ResultFault(f"{self._bound.job.target} {fault}")  # the other ranks would wait for this one's numbers
        if fault is not None and self._calls == 1:
            self._checkable = False  # the agreement pass reports it
        elif fault is not None:
            self._fault = f"{fault}, in sample {self._calls - 1} of those that are timed, though not in its first call"

    def _read(self, result: Any) -> str | None:
        """Record a result; return what is wrong with it, or None."""
        problem, job = self._bound.problem, self._bound.job
        try:
            result = plain(result)
            asked = job.quantity, problem.theta, self._bound.vectors, problem.sizes, job.k, problem.points
            fault = result_fault(result, *asked)
            if fault is None:
                self._products.append(number(result))
                self._first = self._first or sketch.bilinear(result_tensors(result))
                self._held = result
        except Exception as error:
            fault = f"returned what cannot be read: {type(error).__name__}"
        return fault

    def release(self) -> None:
        """Free the last result, outside the clock."""
        self._held = None

    @property
    def last(self) -> float | None:
        """The number of the last result; None where the results differ among themselves, or cannot be judged."""
        if self._first is None or self._fault is not None:
            return None
        steady = abs(self._products[-1] - self._products[0]) <= STEADY * math.hypot(*self._first)
        return self._products[-1] if steady else None

    def fields(self) -> dict[str, Any]:
        """The numbers that `harness.truth.timed_results` judges; the last result is freed.

        Numbers that are not finite are None, as in a record.
        """
        if self._fault is not None:
            return {"fault": {"status": "wrong", "message": f"{self._bound.job.target} {self._fault}"}}
        if self._first is None or self._held is None:
            return {}
        last = sketch.bilinear(result_tensors(self._held))
        self.release()
        numbers = {"first": self._first, "last": last, "products": self._products}
        return {key: [entry if math.isfinite(entry) else None for entry in entries] for key, entries in numbers.items()}


def number(result: Any) -> float:
    """One number of a result, by which results are distinguished."""
    with torch.no_grad():
        return sketch.bilinear(result_tensors(result), 1)[0]
