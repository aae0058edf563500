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


# What torch's messages say of the device rather than of an operation: tensors on two devices, or a library that failed.
_OF_DEVICE = re.compile(
    r"\b[Dd]evices?\b|out of memory|torch\.cuda\.\w*Tensor|CUDA error|cuDNN error|unable to find an engine"
    r"|valid cuDNN algorithm|CU[A-Z]+_STATUS_|CUFFT_"
)


def is_of_device(error: RuntimeError) -> bool:
    """Whether an error comes from a GPU, its memory or its libraries, or from tensors on two devices."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OF_DEVICE.search(str(error)))


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises Refused instead of torch's error that an operation has no rule for a transform; lets other errors pass."""
    try:
        yield
    except CheckpointError as error:
        raise Refused("torch's transforms cannot see into checkpoints") from error
    except RuntimeError as error:
        if is_of_device(error):
            raise
        text = str(error)
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text):
                first_line = text.split("\n")[0]
                raise Refused(f"{meaning}: {first_line[:120]}") from error
        raise
