"""What a method leaves behind: its arguments, the process's state and torch's functions, before and after its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.problems import casting
from harness.problems.binding import Cell
from harness.truth import arguments, traces
from harness.truth.replaced import replaced, snapshot

SHOWN = 6  # names in a message
MISSING = object()


class Watch:
    """Made before the method's module is imported; told of the cell once it is bound; asked after the calls."""

    def __init__(self) -> None:
        self._functions = snapshot()
        self._state = traces.read()
        self._volatile: set[str] = set()

    def bound(self, cell: Cell) -> None:
        """Take what the method is given as it is now, and what an import may set for itself."""
        self._volatile = arguments.volatile(cell)
        self._state |= traces.read(importing=False) | arguments.read(cell, self._volatile)

    def fault(self, cell: Cell) -> dict[str, Any] | None:
        """`status` and `message` where something was changed, else None.

        Nothing may be computed with torch after a fault: its state is not to be relied on.
        """
        state = traces.read_after()
        with traces.unhindered():
            try:
                state |= arguments.read(cell, self._volatile)
            except BaseException as error:
                state["the arguments"] = f"cannot be read: {type(error).__name__}"
            names = differences(self._state, state) + [f"{name} (replaced)" for name in replaced(self._functions)]
        if not names:
            return None
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        message = (
            f"{cell.job.target} changed {shown}; a method must leave its arguments and the process's state as it "
            "found them: work on copies, restore what it sets"
        )
        return {"status": "error", "message": message}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the parts that differ, with both values where these are short."""
    names = [*before, *(name for name in after if name not in before)]
    pairs = [(name, before.get(name, MISSING), after.get(name, MISSING)) for name in names]
    return [name + _shown(old, new) for name, old, new in pairs if not same(old, new)]


def _shown(old: Any, new: Any) -> str:
    if old is MISSING or new is MISSING:
        return " (added)" if old is MISSING else " (removed)"
    short = all(
        isinstance(value, bool | int | float | str | torch.dtype | torch.device) and len(str(value)) < 60
        for value in (old, new)
    )
    return f" ({old}, now {new})" if short else ""


def same(value: Any, other: Any) -> bool:
    """Whether two values are the same; tensors as `casting.same` compares them."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return casting.same(value, other)
    return value is other or (type(value) is type(other) and not isinstance(value, Tensor) and bool(value == other))
