"""The verdict on matrices, diagonals and products that state their own error (`methods.estimates.Bounded`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

MOST = 0.95  # share of the entries whose error is to be as stated


def judge(off: Tensor, known: Tensor, stated: Tensor, tolerance: float, size: float | None) -> dict[str, Any]:
    """The fields `stated_error`, `covered`, `tolerance`, `status` and `message`.

    `off` are the errors, `known` the true values. `stated` has the same shape, or is (k,) for products (P, k): then it
    is of the norms of columns. Errors are relative to `size`, or the norm of the true values where this is None. A
    result is wrong if its error is larger than stated, in norm; if 5 % of the stated ones do not hold; if a stated
    error is negative; or if zeros would pass as well.
    """
    size = float(known.norm()) if size is None else size
    size = size or 1.0
    scale = size / max(1, stated.numel()) ** 0.5  # of one stated error
    error, bound = float(off.norm()) / size, float(stated.norm()) / size
    single = off.norm(dim=0) if stated.shape != off.shape else off.abs()
    holds = single <= stated + tolerance * scale
    covered = bool(holds.double().mean() >= MOST)
    text = f"error {error:.1e}, stated {bound:.1e}, relative to the truth"
    fault = None
    if bool((stated < 0).any()):
        fault = "a stated error is negative"
    elif error > bound + tolerance or not covered:
        fault = f"the error is larger than stated, or in more than {1 - MOST:.0%} of what is stated"
    elif bound >= 1 and bool(known.any()):
        fault = "an error as large as the truth says nothing: zeros would do as well"
    return {
        "stated_error": bound,
        "covered": covered,
        "tolerance": max(tolerance, bound),
        "status": "ok" if fault is None else "wrong",
        "message": "; ".join(filter(None, [text, fault])),
    }
