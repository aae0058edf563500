"""How much a GPU's clocks were held down while it was measured, and by what."""

from __future__ import annotations

import math
from collections.abc import Sequence

# NVML's clocks event reasons for each cause. The others are settings of the GPU's user, and that it is idle.
CAUSES = {
    "power": 0x4 | 0x80 | 0x200,  # power cap, power brake, board limit
    "heat": 0x20 | 0x40,
    "hardware": 0x8 | 0x400,  # a slowdown for whatever cause, reliability
}
MOST = 0.1  # share of the sampling above which a time is marked


def throttling(reasons: Sequence[float | None] | None, power: float, heat: float) -> tuple[float, str | None]:
    """The share of a sampling in which the clocks were held down, and above MOST also by what: `power 80%, heat 5%`.

    `reasons` are those that were read after samples; `power` and `heat` are the shares by NVML's counters, NaN where
    these are unknown. The largest share counts, since what is read after a sample may be that the GPU is idle again. It
    is NaN where nothing is known.
    """
    read = [int(reason) for reason in reasons or () if reason is not None]

    def largest(bits: int, *counted: float) -> float:
        shares = [min(1.0, share) for share in counted if not math.isnan(share)]
        if read:
            shares.append(sum(reason & bits != 0 for reason in read) / len(read))
        return max(shares, default=math.nan)

    share = largest(sum(CAUSES.values()), power, heat)
    if not share > MOST:
        return share, None
    counted = {"power": [power], "heat": [heat]}
    causes = {cause: largest(bits, *counted.get(cause, ())) for cause, bits in CAUSES.items()}
    return share, ", ".join(f"{cause} {part:.0%}" for cause, part in causes.items() if part > 0)
