"""What a result states of its own error, without a truth to compare it with."""

from __future__ import annotations

from typing import Any

from scipy import stats
from torch import Tensor

from harness.truth.kinds import Bounded, Estimate, Spectrum, products_of
from harness.truth.results import plain

LEVEL = 0.95  # of a random estimate's interval


def stated(result: Any, quantity: str) -> dict[str, Any]:
    """The fields `stated_error` and `products` of a record; the error is None where the result states none, or 0.

    The error is relative to the result itself, since the truth is not known:

    - of a random estimate half of its 95 % interval (Student's t), in norm over that of the values;
    - of eigenvalues the largest residual norm over the largest magnitude; of an inverse product the largest residual,
      relative to its vector; of any other bounded result the norm of its errors over that of its values;
    - of a spectrum half of the 95 % intervals of its moments, in norm over that of the moments.
    """
    result = plain(result)
    error = None
    if isinstance(result, Estimate):
        half = float(stats.t.isf((1 - LEVEL) / 2, max(result.probes - 1, 1)))
        error = half * _ratio(result.standard_error, result.value)
    elif isinstance(result, Spectrum):
        error = float(stats.norm.isf((1 - LEVEL) / 2)) * _ratio(result.moment_errors, result.moments)
    elif isinstance(result, Bounded) and quantity == "ihvp":
        error = float(result.error.max())
    elif isinstance(result, Bounded) and quantity == "eigenvalues":
        error = float(result.error.max()) / (float(result.value.abs().max()) or 1.0)
    elif isinstance(result, Bounded):
        error = _ratio(result.error, result.value)
    return {"stated_error": error or None, "products": products_of(result)}


def _ratio(errors: Tensor, values: Tensor) -> float:
    return float(errors.double().norm()) / (float(values.double().norm()) or 1.0)
