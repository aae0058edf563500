"""Attention that can be differentiated twice: torch's fused kernels, which it chooses by itself, cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def use_math() -> None:
    """Have scaled_dot_product_attention computed from matrix products, in this process.

    This is the state within `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH):`. The fused kernels for a whole
    layer of nn.MultiheadAttention and nn.TransformerEncoderLayer in eval mode are switched off too.
    """
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(True)
    torch.backends.mha.set_fastpath_enabled(False)


def backend_of(loss: Callable[[Tensor], Tensor], theta: Tensor) -> str | None:
    """How attentions of torch's that the loss calls are computed; None where it calls none.

    `math`, from matrix products, as `use_math` has it; `fused` where the loss itself switches a fused kernel on again.
    """
    with _AttentionFinder() as finder:
        loss(theta.detach().requires_grad_())
    return finder.found


ATTENTIONS = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)


class _AttentionFinder(TorchFunctionMode):
    """Finds out whether torch's attention is called, and with which kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(function is attention for attention in ATTENTIONS) and self.found != "fused":
            kernels = torch.backends.cuda  # which hold for the CPU too
            fused = kernels.flash_sdp_enabled() or kernels.mem_efficient_sdp_enabled() or kernels.cudnn_sdp_enabled()
            self.found = "fused" if fused else "math"
        return function(*args, **(kwargs or {}))
