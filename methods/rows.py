"""Rows of a Hessian, each by a backward pass through one gradient's graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from methods.affine import Network
from methods.products import slices

ROWS = 64  # backward passes of a row at once


def rows_of(network: Network, names: Iterable[str], at_once: int = ROWS) -> Iterator[tuple[slice, Tensor]]:
    """Places and rows (c, P) of some parameters, each by a backward pass through one gradient's graph."""
    names = set(names)
    if not names:
        return
    loss, _ = network.loss((), lambda place, z: z)
    slopes = torch.autograd.grad(loss, list(network.params.values()), create_graph=True, materialize_grads=True)
    for name, slope in zip(network.params, slopes, strict=True):
        span = network.span[name]
        for some in slices(span.start, span.stop, at_once) if name in names else ():
            index = torch.arange(some.start, some.stop, device=slope.device) - span.start
            units = functional.one_hot(index, slope.numel()).to(slope).view(-1, *slope.shape)
            yield some, products_of(slope, network, units)


def products_of(slope: Tensor, network: Network, vectors: Tensor) -> Tensor:
    """Slopes (c, P) of `slope . vector` in all parameters, for vectors (c, ...): at once, or in turn where it must."""
    params = list(network.params.values())
    if not slope.requires_grad:
        return slope.new_zeros(len(vectors), len(network.theta))

    def pulled(cotangents: Tensor, **options: bool) -> Sequence[Tensor | None]:
        return torch.autograd.grad(slope, params, cotangents, retain_graph=True, allow_unused=True, **options)

    parts = None
    if len(vectors) > 1:
        try:
            parts = pulled(vectors, is_grads_batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation without a rule to batch it, of which torch says this or that
            parts = None
    if parts is None:
        each = [pulled(vector) for vector in vectors]
        parts = [None if rows[0] is None else torch.stack(rows) for rows in zip(*each, strict=True)]
    zeros = [p.new_zeros(len(vectors), p.numel()) for p in params]
    return torch.cat(
        [zero if part is None else part.reshape(zero.shape) for part, zero in zip(parts, zeros, strict=True)], dim=1
    )
