"""How a method treats each parameter, in one line of the record, where the method explains it.

A method's module may offer a function `explain`.

- It asks for its arguments by name, as the method's quantities do. It must ask for `quantity`: without that it is
  another function of the same name, and is not called.
- It returns a text for the name of each parameter, or raises ValueError for a quantity that it does not explain.
- A constant USUAL of the module is the text for parameters that are treated as the method is meant to.
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

    `options` are the arguments that may be asked for, by name. An `explain` that raises is no fault of the result: the
    text reports it.
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
    if not names:
        return None
    start = f"not by {usual}: " if usual else ""
    return start + "; ".join(f"{_listed(group, len(reasons))} ({reason})" for reason, group in names.items())


def _listed(names: list[str], every: int) -> str:
    if len(names) == every:
        return "all parameters"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
