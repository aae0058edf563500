"""Where the configuration is, and what a value of it may be: a check beside the field that takes it.

A dataclass says `threads: Annotated[int, whole(1)]`, and `checked` reads that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

CONF = next(
    folder
    for folder in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf")  # a wheel, a clone
    if (folder / "config.yaml").exists()
)


class ConfigError(ValueError):
    """A value of the configuration cannot be used."""


@dataclass(frozen=True)
class Check:
    """What a value may be."""

    allows: Callable[[Any], bool]
    must: str  # what follows on the key and the value in a message


def whole(least: int, bits: int | None = None) -> Check:
    """A whole number of at least `least`, and of at most so many bits."""

    def allows(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and value >= least and (bits is None or value < 2**bits)

    limit = "" if bits is None else f" and less than 2^{bits}"
    return Check(allows, f"must be a whole number of at least {least}{limit}")


def number(what: str, allows: Callable[[float], bool]) -> Check:
    """A number that `allows` is true of."""

    def is_allowed(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and allows(value)

    return Check(is_allowed, f"must be {what}")


def one_of(choices: Sequence[str]) -> Check:
    """One of these texts."""
    return Check(lambda value: value in choices, f"is not known; choose one of {', '.join(choices)}")


def list_of(choices: Sequence[str], what: str = "", least: int = 0) -> Check:
    """A list of at least so many of these texts."""

    def allows(value: Any) -> bool:
        return isinstance(value, list) and len(value) >= least and all(entry in choices for entry in value)

    return Check(allows, f"must be a list of {what or 'some'} of {', '.join(choices)}")


def text(what: str, allows: Callable[[str], bool] = bool) -> Check:
    """A text that `allows` is true of; by default any that is not empty."""
    return Check(lambda value: isinstance(value, str) and allows(value), f"must be {what}")


def or_null(check: Check, meaning: str) -> Check:
    """What a check allows, or null, which means something."""
    return Check(lambda value: value is None or check.allows(value), f"{check.must}, or null for {meaning}")


@cache
def checks(kind: type) -> dict[str, Check]:
    """The checks of a dataclass's fields, by the fields' names, which are keys of the configuration."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: metadata[0] for name, metadata in found.items() if metadata}


def checked(kind: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of those keys that a dataclass checks.

    `prefix` stands before a key in messages. Raises ConfigError naming the key, the value found and what it may be.
    """
    found = {}
    for key, check in checks(kind).items():
        if key not in values:
            raise ConfigError(f"{prefix}{key} is missing; it {check.must}")
        if not check.allows(values[key]):
            raise ConfigError(f"{prefix}{key}={values[key]} {check.must}")
        found[key] = values[key]
    return found


def refuse_unknown(values: Mapping[str, Any], known: Collection[str], prefix: str = "") -> None:
    """Raise ConfigError for keys that are not known."""
    unknown = sorted(prefix + key for key in values if key not in known)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no such key; the keys are {', '.join(sorted(known))}")
