"""What the processes of a group (torch.distributed) find out about each other; an error in one is raised in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup


def of_all(group: ProcessGroup, device: torch.device, compute: Callable[[], float]) -> list[float]:
    """The numbers that `compute` returns in the group's processes, in their order; gathered on `device`.

    Where it raises an exception in some, each of these raises its own. The others, which would wait for them for ever,
    raise RuntimeError with the first of them.
    """
    number, error = 0.0, None
    try:
        number = compute()
    except Exception as raised:  # of any kind: it is the user's own code
        error = raised
    own = torch.tensor([number, error is not None], dtype=torch.float64, device=device)
    found = [torch.empty_like(own) for _ in range(group.size())]
    distributed.all_gather(found, own, group=group)
    numbers, failed = torch.stack(found).T.tolist()
    if any(failed):
        messages = objects(group, None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        raise RuntimeError(f"process {failed.index(1.0)} of {group.size()} raised {messages[failed.index(1.0)]}")
    return numbers


def objects(group: ProcessGroup, value: Any) -> list[Any]:
    """The values of the group's processes, which can be pickled, in their order."""
    values = [None] * group.size()
    distributed.all_gather_object(values, value, group=group)
    return values
