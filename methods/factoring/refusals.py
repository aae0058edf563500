"""Errors of torch that say that its transforms do not take an operation, apart from all other errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch.utils.checkpoint import CheckpointError


class Refused(Exception):
    """Shifts and torch's transforms do not fit the network. The text gives the reason."""


# Patterns of torch's messages where an operation has no rule for a transform, and what they mean.
_MEANINGS = (
    (
        r"functorch transforms|saved tensor hooks|inside of a function being transformed|doesn't have storage"
        r"|would mutate a captured Tensor|inference tensor",
        "torch's transforms cannot see into an operation",
    ),
    (r"forward AD|forward-mode|forward mode|decomposition for", "torch has no forward mode of an operation"),
    (r"ZeroTensors are immutable", "torch has no forward mode of a gradient"),
    (r"derivative for .* not implemented|differentiate twice", "torch has no second derivative of an operation"),
    (r"[Ss]parse", "torch's transforms do not take sparse tensors"),
    (r"vmap|[Bb]atching rule|randomness error mode", "torch has no rule to batch an operation"),
    (
        r"not have been used in the graph|does not require grad|requires_grad",
        "torch's transforms do not see a gradient within the forward pass",
    ),
)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises Refused instead of torch's error that an operation has no rule for a transform; lets other errors pass."""
    try:
        yield
    except CheckpointError as error:
        raise Refused("torch's transforms cannot see into checkpoints") from error
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text):
                first_line = text.split("\n")[0]
                raise Refused(f"{meaning}: {first_line[:120]}") from error
        raise
