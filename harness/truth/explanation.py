"""How a method does each parameter, where it says so: for the record, in one line.

A method's module may offer `explain`, which asks for what it wants by name, as the method's quantities do, and for
`quantity`, without which it is another function of that name and not called; it returns a text for the name of each
parameter, or raises ValueError for a quantity that it says nothing of. Where the module has a text USUAL, that is what
`explain` says of those that are done as the method is meant to.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from types import ModuleType
from typing import Any

NAMED = 6  # parameters named for each reason


def explained(module: ModuleType | None, options: Mapping[str, Any]) -> str | None:
    """`not by matrix products: 1.weight, 1.bias (samples depend on each other)`; None where there is nothing to say.

    `options` is what may be asked for, by name. An `explain` that raises is no fault of the result: the text says so.
    """
    explain = getattr(module, "explain", None)
    if not inspect.isfunction(explain) or "quantity" not in inspect.signature(explain).parameters:
        return None
    asked = {name: options[name] for name in inspect.signature(explain).parameters if name in options}
    try:
        reasons = {str(name): str(reason) for name, reason in explain(**asked).items()}
    except ValueError:
        return None
    except Exception as error:  # whatever the method's own code raises
        return f"explain raised {type(error).__name__}: {str(error)[:120]}"
    usual = getattr(module, "USUAL", None)
    names = defaultdict(list)
    for name, reason in reasons.items():
        if reason != usual:
            names[reason].append(name)
    groups = [f"{_listed(group, len(reasons))} ({reason})" for reason, group in names.items()]
    return (f"not by {usual}: " if usual else "") + "; ".join(groups) if groups else None


def _listed(names: list[str], every: int) -> str:
    if len(names) == every:
        return "all parameters"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
