"""The machine's own best rates, measured here and now, with which a method's times are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.measure.clock import raise_clocks, timed

GEMM_SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
WRITTEN_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # well beyond the caches
REPEATS, BUDGET_S = 10, 0.3


def measure(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """`gemm_flops_per_s` of a square matrix product, and `write_bytes_per_s` of filling allocated memory.

    Each is the best of REPEATS, or of as many as BUDGET_S allows, at the process's thread count. The matrices are
    random, since a GPU multiplies ones faster: switching fewer bits takes less of its power.
    """
    size = GEMM_SIZE[device.type]
    a, b = torch.randn(2, size, size, dtype=dtype, device=device)
    c = torch.empty_like(a)
    written = torch.zeros(WRITTEN_BYTES[device.type], dtype=torch.uint8, device=device)
    return {
        "gemm_flops_per_s": 2 * size**3 / _least(lambda: torch.mm(a, b, out=c), device),
        "write_bytes_per_s": written.numel() / _least(lambda: written.fill_(1), device),
    }


def _least(call: Callable[[], object], device: torch.device) -> float:
    call()
    raise_clocks(call, device)
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < BUDGET_S:
        times.append(timed(call, device).wall_s)
    return min(times)
