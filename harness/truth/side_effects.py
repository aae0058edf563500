"""The side effects of a method: changes of its arguments, of the process's state and of torch's functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.problems import casting
from harness.problems.binding import BoundMethod
from harness.truth import arguments, process_state
from harness.truth.patched_functions import patched, snapshot

SHOWN = 6  # names in a message
SHORT = 60  # characters of a value that a message shows
MISSING = object()


class SideEffects:
    """Finds what a method changes.

    Make it before the method's module is imported, call `remember` once the method is bound, and ask for `fault` after
    its calls.
    """

    def __init__(self) -> None:
        self._functions = snapshot()
        self._state = process_state.read()
        self._volatile: set[str] = set()

    def remember(self, bound: BoundMethod) -> None:
        """Remember the method's arguments as they are now, and the state that importing its module may have set."""
        self._volatile = arguments.volatile(bound)
        self._state |= process_state.read_set_on_import() | arguments.read(bound, self._volatile)

    def fault(self, bound: BoundMethod) -> dict[str, Any] | None:
        """`status` and `message` where something was changed, else None.

        Compute nothing with torch after a fault: its state cannot be relied on.
        """
        state = process_state.read_after()
        with process_state.unhindered():
            try:
                state |= arguments.read(bound, self._volatile)
            except BaseException as error:
                state["the arguments"] = f"cannot be read: {type(error).__name__}"
            names = changes(self._state, state) + [f"{name} (replaced)" for name in patched(self._functions)]
        if not names:
            return None
        shown = ", ".join(names[:SHOWN])
        if len(names) > SHOWN:
            shown += f" and {len(names) - SHOWN} more"
        message = (
            f"{bound.job.target} changed {shown}; a method must leave its arguments and the process's state as it "
            "found them: work on copies, restore what it sets"
        )
        return {"status": "error", "message": message}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the parts that differ, with both values where these are short."""
    names = [*before, *(name for name in after if name not in before)]
    pairs = [(name, before.get(name, MISSING), after.get(name, MISSING)) for name in names]
    return [name + _shown(old, new) for name, old, new in pairs if not same_value(old, new)]


def _shown(old: Any, new: Any) -> str:
    """The change of a value, for a message."""
    if old is MISSING:
        return " (added)"
    if new is MISSING:
        return " (removed)"
    return f" ({old}, now {new})" if _is_short(old) and _is_short(new) else ""


def _is_short(value: Any) -> bool:
    printable = isinstance(value, bool | int | float | str | torch.dtype | torch.device)
    return printable and len(str(value)) < SHORT


def same_value(value: Any, other: Any) -> bool:
    """Whether two values are the same; tensors are compared by `casting.same_tensor`."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return casting.same_tensor(value, other)
    return value is other or (type(value) is type(other) and not isinstance(value, Tensor) and bool(value == other))
