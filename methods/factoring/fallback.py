"""What the option `fallback` of `methods.factored` allows, and the report of a result that failed its check."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Literal

from methods.factoring.certificate import FallbackError, FallbackWarning
from methods.factoring.comparison import CertificateError
from methods.factoring.plan import Plan

Fallback = Literal["rows", "error"]


def check_fallback(fallback: str) -> None:
    """Raise ValueError for another value than those of `Fallback`."""
    if fallback not in ("rows", "error"):
        raise ValueError(f"fallback={fallback!r} must be 'rows' or 'error'")


def check_rows_allowed(plan: Plan, fallback: Fallback, known: Collection[str] = ()) -> None:
    """Raise FallbackError where rows are not wanted, and taken for another reason than that they cost less.

    `known` names parameters that have passed this check in an earlier batch.
    """
    slow = [
        f"{name}: {reason}"
        for name, reason in plan.reasons.items()
        if plan.cheap_rows.get(name) != reason and name not in known
    ]
    if fallback == "error" and slow:
        raise FallbackError(f"fallback='error', and these would take a backward pass for each row: {'; '.join(slow)}")


def report_failed(failed: Mapping[str, float], in_turn: set[str], fallback: Fallback, stacklevel: int) -> None:
    """Warn of parameters that failed the check; raise where rows in turn are not wanted or have failed already."""
    listed = ", ".join(f"{name} (off by {distance:.1e})" for name, distance in failed.items())
    if failed.keys() <= in_turn:
        raise CertificateError(
            f"rows by double backward do not agree with its product with a vector, in {listed}: the loss differs from "
            "call to call, or its second derivative is not symmetric (a custom Function whose backward is another "
            "function's gradient, say)"
        )
    if fallback == "error":
        raise FallbackError(f"fallback='error', and matrix products are not what double backward gives, in {listed}")
    warnings.warn(
        f"the factored result is not what double backward through the plain loss gives, in {listed}; their rows are "
        "computed again, a backward pass for each. Does the loss depend on how it is differentiated (gradients within "
        "the forward pass, stored activations, no_grad)?",
        FallbackWarning,
        stacklevel,
    )
