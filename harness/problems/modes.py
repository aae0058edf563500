"""The modes of torch in which a method can run: under autocast, compiled, or with deterministic algorithms only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

AUTOCAST = torch.bfloat16  # which torch.autocast takes in place of float32 where it can


def in_mode(mode: str | None, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function, run in a mode of `harness.job.MODES`; the function itself for None.

    `autocast` covers the whole call, the passes backward too. `compiled` is torch.compile of the whole function.
    `deterministic` makes an operator without a deterministic algorithm raise RuntimeError.
    """
    if mode is None:
        return function
    if mode == "compiled":
        return torch.compile(function)

    def called(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, AUTOCAST) if mode == "autocast" else _deterministic():
            return function(*args, **kwargs)

    return called


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
