"""Rows of a Hessian, each by a backward pass through one gradient's graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from methods.factoring.network import Network
from methods.factoring.numerics import one_hot, slices
from methods.factoring.refusals import is_of_device

ROWS = 64  # backward passes at once


def rows_of(
    network: Network, names: Iterable[str], at_once: int = ROWS, needed: slice | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The rows (c, P) of the named parameters, `at_once` at a time, each chunk with its place in theta.

    With `needed`, a span of theta, only those within it.
    """
    wanted = set(names)
    if not wanted:
        return
    params = list(network.params.values())
    gradients = torch.autograd.grad(network.unshifted(), params, create_graph=True, materialize_grads=True)
    for name, gradient in zip(network.params, gradients, strict=True):
        if name not in wanted:
            continue
        start, first, last = network.span[name].start, 0, gradient.numel()
        if needed is not None:
            first, last = max(first, needed.start - start), min(last, needed.stop - start)
        for entries in slices(first, last, at_once):
            units = one_hot(entries, gradient.numel(), gradient).view(-1, *gradient.shape)
            yield slice(start + entries.start, start + entries.stop), products_of(gradient, network, units)


def products_of(gradient: Tensor, network: Network, vectors: Tensor) -> Tensor:
    """Derivatives (c, P) of `gradient . vector` in all parameters, for vectors (c, ...) in the shape of the gradient.

    The backward passes are batched, or done in turn where torch cannot batch an operation.
    """
    params = list(network.params.values())
    if not gradient.requires_grad:
        return gradient.new_zeros(len(vectors), len(network.theta))
    products = _batched(gradient, params, vectors) if len(vectors) > 1 else None
    if products is None:
        products = _in_turn(gradient, params, vectors)
    zeros = [p.new_zeros(len(vectors), p.numel()) for p in params]
    flat = [
        zero if product is None else product.reshape(zero.shape) for product, zero in zip(products, zeros, strict=True)
    ]
    return torch.cat(flat, dim=1)


def _batched(gradient: Tensor, params: Sequence[Tensor], vectors: Tensor) -> Sequence[Tensor | None] | None:
    """The derivatives (c, ...) in each parameter, or None where an operation has no rule to batch it."""
    try:
        return torch.autograd.grad(
            gradient, params, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError as error:  # torch's messages for a missing rule differ
        if is_of_device(error):
            raise
        return None


def _in_turn(gradient: Tensor, params: Sequence[Tensor], vectors: Tensor) -> list[Tensor | None]:
    each = [torch.autograd.grad(gradient, params, vector, retain_graph=True, allow_unused=True) for vector in vectors]
    return [None if rows[0] is None else torch.stack(rows) for rows in zip(*each, strict=True)]
