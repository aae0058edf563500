"""Matrix products of float32 in full precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Turns gradients on, and multiplies float32 in float32 instead of TF32 or bfloat16; restores both at the end."""
    with contextlib.ExitStack() as restored, torch.enable_grad():
        try:
            products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        except RuntimeError:  # torch's newer switches are in use, which the older ones cannot read
            _set_newer_switches(restored)
        else:
            _set_older_switches(restored, products, convolutions)
        yield


def _set_older_switches(restored: contextlib.ExitStack, products: str, convolutions: bool) -> None:
    if products != "highest":
        restored.callback(torch.set_float32_matmul_precision, products)
        torch.set_float32_matmul_precision("highest")
    if convolutions and torch.cuda.is_initialized():
        restored.callback(setattr, torch.backends.cudnn, "allow_tf32", convolutions)
        torch.backends.cudnn.allow_tf32 = False


def _set_newer_switches(restored: contextlib.ExitStack) -> None:
    for module, parent in _newer_switches():
        inherited = module.fp32_precision == parent.fp32_precision
        restored.callback(setattr, module, "fp32_precision", "none" if inherited else module.fp32_precision)
        module.fp32_precision = "ieee"


def _newer_switches() -> list[tuple[Any, Any]]:
    """Each module with a switch of float32 precision, and the module that it inherits the value from."""
    every: Any = torch.backends
    cudnn, mkldnn = every.cudnn, every.mkldnn
    return [
        (every.cuda.matmul, every),
        (mkldnn.matmul, mkldnn),
        (cudnn.conv, cudnn),
        (mkldnn.conv, mkldnn),
        (cudnn.rnn, cudnn),
        (mkldnn.rnn, mkldnn),
    ]
