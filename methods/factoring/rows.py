"""Rows of a Hessian, each by a backward pass through one gradient's graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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


def rows_from(
    network: Network, gradients: Mapping[str, Tensor], needed: slice, at_once: int, later: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The needed rows of the Hessian, from the gradients with their graph: tiles with their rows and columns in theta.

    About `at_once` rows are computed at a time. With `later` only their columns from the first of them on are: the
    others are the mirror image of earlier rows, and that part of the graph is not gone through.
    """
    count = -(-(needed.stop - needed.start) // at_once)
    for own in slices(needed.start, needed.stop, -(-(needed.stop - needed.start) // count)):
        chosen = [name for name, span in network.span.items() if span.start < own.stop and own.start < span.stop]
        first = network.span[chosen[0]].start
        units = one_hot(
            slice(own.start - first, own.stop - first), network.span[chosen[-1]].stop - first, network.theta
        )
        parts = units.split([gradients[name].numel() for name in chosen], dim=1)
        cotangents = [part.view(-1, *gradients[name].shape) for name, part in zip(chosen, parts, strict=True)]
        inputs = [name for name, span in network.span.items() if not later or span.stop > own.start]
        products = vjps([gradients[name] for name in chosen], [network.params[name] for name in inputs], cotangents)
        for name, product in zip(inputs, products, strict=True):
            span = network.span[name]
            start = max(span.start, own.start) if later else span.start
            yield own, slice(start, span.stop), product.reshape(len(product), -1)[:, start - span.start :]


def products_of(gradient: Tensor, network: Network, vectors: Tensor) -> Tensor:
    """Derivatives (c, P) of `gradient . vector` in all parameters, for vectors (c, ...) in the shape of the gradient.

    The backward passes are batched, or done in turn where torch cannot batch an operation.
    """
    products = vjps([gradient], list(network.params.values()), [vectors])
    return torch.cat([product.reshape(len(product), -1) for product in products], dim=1)


def vjps(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives (c, ...) of `outputs . cotangents` in each input, for cotangents (c, ...) of each output.

    The backward passes are batched by `torch.func.vmap`, whose rules leave fewer operations to a loop over the
    cotangents than those of `is_grads_batched` (torch 2.13: tanh). They are done in turn where torch cannot batch.
    """
    count = len(cotangents[0])
    varying = [(x, cotangent) for x, cotangent in zip(outputs, cotangents, strict=True) if x.requires_grad]
    if not varying:
        return [x.new_zeros(count, *x.shape) for x in inputs]
    sources = [x for x, _ in varying]

    def single(*cotangents: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sources, inputs, cotangents, retain_graph=True, materialize_grads=True)

    given = [cotangent for _, cotangent in varying]
    if count > 1:
        try:
            return list(torch.func.vmap(single)(*given))
        except RuntimeError as error:  # torch's messages for a missing rule differ
            if is_of_device(error):
                raise
    each = [single(*cotangents) for cotangents in zip(*given, strict=True)]
    return list(map(torch.stack, zip(*each, strict=True)))
