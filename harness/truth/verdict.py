"""The fields `status` and `message` of a record."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]  # of a record


def ok(message: str | None = None) -> Fields:
    """A result that is right."""
    return {"status": "ok", "message": message}


def wrong(message: str) -> Fields:
    """A result that is wrong, and why."""
    return {"status": "wrong", "message": message}


def within(error: float, tolerance: float, what: str = "relative error") -> Fields:
    """A result that states no error: right up to the tolerance."""
    return ok() if error <= tolerance else wrong(f"{what} {error:.1e}; {tolerance:.0e} is tolerated")
