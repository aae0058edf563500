"""The version of torch that a record names."""

from __future__ import annotations

import functools

from packaging.version import Version


@functools.cache
def version_of(torch: object) -> Version | None:
    """The version without its build: 2.13.0 of `2.13.0+cpu`; None where a record names none, or no version."""
    try:
        return Version(Version(torch).public) if isinstance(torch, str) else None
    except ValueError:
        return None


def release_of(version: Version) -> tuple[int, ...]:
    """(2, 13) of 2.13.0 and of 2.13.1."""
    return version.release[:2]
