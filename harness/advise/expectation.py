"""From measurements in few parameters to what is expected in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

FEWEST = 64  # parameters in which a method is first checked and timed
STEP = 4  # factor between the numbers of parameters in which it is timed
FASTER = 1.4  # growth exponent above which a power law is followed instead of a line


def sizes(params: int) -> list[int]:
    """Numbers of parameters in which a method is timed, ascending, all of them last."""
    found = []
    size = FEWEST
    while 2 * size < params:
        found.append(size)
        size *= STEP
    return [*found, params]


def expected(points: Sequence[tuple[int, float]], size: int) -> float:
    """The value at `size`, from values at smaller sizes.

    It is on the line through the last two points, or on their power law where they grow much faster than a line. One
    point alone is taken to be proportional to its size.
    """
    last_x, last_y = points[-1]
    if last_x == size:
        return last_y
    if len(points) == 1:
        return last_y * size / last_x
    x, y = points[-2]
    if y > 0 and last_y > 0:
        exponent = math.log(last_y / y) / math.log(last_x / x)
        if exponent > FASTER:
            return last_y * (size / last_x) ** exponent
    return last_y + max((last_y - y) / (last_x - x), 0.0) * (size - last_x)
