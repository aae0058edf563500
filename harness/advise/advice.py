"""What is found of each method, and of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.job import Job

ESTIMATE = "estimate"  # status of a method that states an error, where none was asked for
COARSE = "coarse"  # status of a method whose stated error is above the precision that was asked for
SLOWER = "slower"  # status of a method that is far slower than the best, and was not measured to the end


@dataclass(frozen=True)
class Advice:
    """What to expect of one method at the problem's own size."""

    job: Job
    asks: tuple[str, ...]  # what it takes, of the names that a method may ask for
    status: str  # as of a record, or ESTIMATE, COARSE or SLOWER
    message: str | None
    params: int  # P, all parameters of the problem
    time_s: float | None = None  # of a call in all parameters
    peak_bytes: float | None = None  # of tensor memory above the start, in all parameters
    error: float | None = None  # relative, in the parameters that were checked
    timed: int = 0  # most parameters in which a call was timed; below `params` the time is extrapolated
    checked: int = 0  # most parameters in which the result was compared with the reference
    cut_s: float | None = None  # time limit that a pass was stopped at
    stated: float | None = None  # relative error that the result states; None where it is exact
    products: int | None = None  # Hessian-vector products that it took

    @property
    def method(self) -> str:
        """The name of its row."""
        return self.job.method

    @property
    def whole(self) -> bool:
        """Whether its result was checked in all parameters."""
        return self.checked == self.params

    def too_large(self, memory_gb: float | None) -> bool:
        """Whether its peak is above `memory_gb`, where that is given."""
        return memory_gb is not None and self.peak_bytes is not None and self.peak_bytes > memory_gb * 1e9

    def usable(self, memory_gb: float | None) -> bool:
        """Whether it has a time, and fits."""
        return self.time_s is not None and not self.too_large(memory_gb)


@dataclass(frozen=True)
class Survey:
    """The methods on one problem."""

    advice: tuple[Advice, ...]  # the best first, then what is too large, then what failed
    lacking: tuple[str, ...]  # methods that do not offer the quantity
    job: Job  # one of them, for the problem
    params: int  # P
    builder_options: dict[str, object]  # what the problem's builder was called with
    attention: str | None  # as in a record
    memory_gb: float | None  # peaks above are too large
    precision: float | None = None  # relative error that an estimate may state; None where only exact methods count
    unchecked: str | None = None  # why no result could be compared with the truth in all parameters

    @property
    def best(self) -> Advice | None:
        """The fastest method that fits; None where there is none."""
        return next((advice for advice in self.advice if advice.usable(self.memory_gb)), None)


def ordered(found: Sequence[Advice], memory_gb: float | None) -> list[Advice]:
    """Usable methods by their time, then those that are too large, then the others."""
    return sorted(found, key=lambda advice: _rank(advice, memory_gb))


def _rank(advice: Advice, memory_gb: float | None) -> tuple[bool, bool, float]:
    time_s = math.inf if advice.time_s is None else advice.time_s
    return advice.time_s is None, advice.too_large(memory_gb), time_s
