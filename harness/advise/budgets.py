"""The options of an estimate, from those that spend least on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

COUNTS = ("probes", "products")  # options that say how much an estimate spends: the error falls as they grow
MOST = "most_products"  # the most that it spends until it reaches its tolerance
TOLERANCE = "tolerance"
FEWEST = 16  # of COUNTS at first
LARGEST = 2**20
FACTOR = 2  # from one of COUNTS to the next
FINER = 0.1  # from one tolerance to the next
FINEST = 1e-15
ENOUGH = 10**6  # of MOST: the time limit ends an estimate before

Options = Mapping[str, Any]  # of a method


def has_budget(options: Options) -> bool:
    """Whether a method is an estimate whose options say how much it spends."""
    return any(name in options for name in (*COUNTS, MOST))


def budgets(options: Options, precision: float) -> Iterator[dict[str, Any]]:
    """The options of a method with increasing budgets, of which the first may be too small.

    Where the method has a tolerance, it is `precision` at first, and falls. Otherwise its COUNTS double, from FEWEST.
    """
    if TOLERANCE in options:
        tolerance = precision
        while tolerance >= FINEST:
            yield {**options, TOLERANCE: tolerance} | ({MOST: ENOUGH} if MOST in options else {})
            tolerance *= FINER
        return
    name = next(name for name in (*COUNTS, MOST) if name in options)
    count = FEWEST
    while count <= LARGEST:
        yield {**options, name: count}
        count *= FACTOR


def is_below(tried: Options, options: Options) -> bool:
    """Whether these options spend less than the row's own, which a method may refuse."""
    return any(name in tried and tried[name] < options[name] for name in COUNTS)
