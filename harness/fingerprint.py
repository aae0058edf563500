"""What is kept of a result and a loss, small enough for a record: a sketch, and the operators of its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SKETCHES = 32
ROWS = 1024  # of a result, converted to float64 at once


def sketch(tensors: Sequence[Tensor]) -> list[float]:
    """32 random linear functions of a result, the same for all results of its shape.

    For two results A and B, the mean square of the differences between their sketches estimates |A - B|_F^2 without
    bias (relative standard error sqrt(2 / 32) for vectors, up to twice that for matrices). A vector x gives g_i^T x, a
    matrix u_i^T X v_i, several tensors the sum of theirs, with Gaussian g_i, u_i, v_i of a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(SKETCHES, dtype=torch.float64)
    for tensor in tensors:
        sides = [torch.randn(SKETCHES, size, generator=generator, dtype=torch.float64) for size in tensor.shape]
        if tensor.dim() == 1:
            total += sides[0] @ tensor.to("cpu", torch.float64)
            continue
        for block, left in zip(tensor.split(ROWS), sides[0].split(ROWS, dim=1), strict=True):
            total += ((left @ block.to("cpu", torch.float64)) * sides[1]).sum(1)
    return total.tolist()


def operators(loss: Callable[[Tensor], Tensor], theta: Tensor) -> list[str]:
    """Names of the operators in the loss's graph of derivatives, sorted, each with which of its inputs depend on theta.

    `NativeLayerNorm 111` is one with weight and bias, `NativeLayerNorm 1` one without; `NativeBatchNorm 111 train` uses
    the batch's own statistics.
    """
    theta = theta.detach().requires_grad_()
    waiting, seen, names = [loss(theta).grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if node.name() == "torch::autograd::AccumulateGrad":
            continue
        inputs = "".join("0" if before is None else "1" for before, _ in node.next_functions)
        training = any(getattr(node, name, False) is True for name in ("_saved_training", "_saved_train"))
        names.add(f"{node.name().rstrip('0123456789').removesuffix('Backward')} {inputs}{' train' * training}")
    return sorted(names)
