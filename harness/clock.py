"""Wall times of calls: the first apart, then samples until a budget is spent; synchronised on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, from an idle device to an idle device; its result is freed before the clock stops."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def samples(call: Callable[[], object], device: torch.device, budget_s: float, least: int, most: int) -> list[float]:
    """Seconds of each call, until `budget_s` is spent; at least `least`, at most `most` calls."""
    times: list[float] = []
    while len(times) < least or (sum(times) < budget_s and len(times) < most):
        times.append(timed(call, device))
    return times


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is idle; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
