"""The state of a process before and after a call: parts that differ are side effects of the call, by their names.

Not seen are memory that is kept, files, child processes, and whatever is changed and put back within the call.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from harness.truth.state_readers import (
    HINDRANCES,
    NEEDED_FRAMES,
    SET_ON_IMPORT,
    SEVERAL_PARTS,
    SINGLE_PARTS,
    TIMERS,
    value_or_error,
)


def read() -> dict[str, Any]:
    """Every part of the state by its name.

    A part that cannot be read, such as a working directory that is gone, has the reason for its value.
    """
    return _singles(HINDRANCES | SINGLE_PARTS) | _several((*SEVERAL_PARTS, *SET_ON_IMPORT))


def read_set_on_import() -> dict[str, Any]:
    """The parts of the state that importing a library may have set."""
    return _several(SET_ON_IMPORT)


def read_after() -> dict[str, Any]:
    """The same as `read`, after a call that may have made reading itself dangerous."""
    hindrances = _singles(HINDRANCES)
    restore_essentials()
    with unhindered():
        return read() | hindrances


def _singles(readers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: value_or_error(reader) for name, reader in readers.items()}


def _several(readers: Iterable[Callable[[], Mapping[str, Any]]]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for reader in readers:
        found = value_or_error(reader)
        if isinstance(found, dict):
            parts |= found
        else:
            parts[reader.__name__.strip("_")] = found
    return parts


@contextmanager
def unhindered() -> Iterator[None]:
    """Torch without the modes that a method has left on, whose code would run instead."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def restore_essentials() -> None:
    """Undo what could keep the harness from writing the record: a low recursion limit, a umask, a pending alarm."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), NEEDED_FRAMES))
    os.umask(0o022)
    for timer in TIMERS.values():
        signal.setitimer(timer, 0)
