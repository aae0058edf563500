"""The true values that a result of each quantity is compared with, from products with the true matrix."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.job import Measure
from harness.truth.products import CHUNK, Products

DIAGONAL_S = 10.0  # time in which the entries of a long diagonal are computed, in random order
RESIDUAL_PROBES = 32  # directions at least from which the norm of a residual is known, to about an eighth


def true_values(
    products: Products,
    sizes: Sequence[int],
    vectors: Tensor | None,
    measure: Measure,
    generator: torch.Generator,
    quantity: str,
) -> dict[str, Any]:
    """The fields of a `harness.truth.reference.Reference` that hold true values; that class describes them."""
    nothing = torch.arange(0)
    if vectors is not None and quantity != "ihvp":
        values = products.columns(nothing)
        return {"columns": nothing, "values": values, "directions": vectors, "products": products(vectors)}
    small = products.params <= measure.full_up_to
    columns = torch.arange(products.params) if small else _spread(sizes, measure.rows, generator)
    if quantity in ("diagonal", "trace"):
        return _diagonal(products, columns, generator)
    known: dict[str, Any] = {"columns": columns, "values": products.columns(columns)}
    if quantity == "block_diagonal" and small:
        return known | {"blocks": tuple(_whole_blocks(known["values"], sizes))}
    if quantity == "block_diagonal":
        return known | {"blocks": tuple(_probed_blocks(products, sizes, measure.probes, generator))}
    if small:
        return known
    probes = max(measure.probes, RESIDUAL_PROBES) if quantity == "ihvp" else measure.probes
    directions = torch.randn(products.params, probes, generator=generator, dtype=torch.float64)
    return known | {"directions": directions, "products": products(directions)}


def _diagonal(products: Products, columns: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """The entries of the diagonal in these columns, and as many others, in random order, as time allows."""
    others = torch.ones(products.params, dtype=torch.bool).index_fill_(0, columns, False).nonzero()[:, 0]
    order = torch.cat([columns, others[torch.randperm(len(others), generator=generator)]])
    entries, row_sizes, done, began = [], [], 0, time.monotonic()
    for some in order.split(CHUNK):
        if done >= len(columns) and time.monotonic() - began > DIAGONAL_S:
            break
        values = products.columns(some)
        entries.append(values[some, torch.arange(len(some))])
        row_sizes.append(values.abs().amax(0))
        done += len(some)
    return {
        "columns": order[:done],
        "values": torch.zeros(products.params, 0, dtype=torch.float64),
        "diagonal": torch.cat(entries),
        "row_sizes": torch.cat(row_sizes),
    }


def _whole_blocks(values: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The unit vectors (size, size) and the block (size, size), for each block."""
    for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
        yield torch.eye(size, dtype=torch.float64), values[start : start + size, start : start + size]


def _probed_blocks(
    products: Products, sizes: Sequence[int], count: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gaussian directions (size, count) and the block's products with them, which see every entry, for each block."""
    for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
        directions = torch.randn(size, count, generator=generator, dtype=torch.float64)
        whole = torch.zeros(products.params, count, dtype=torch.float64)
        whole[start : start + size] = directions
        yield directions, products(whole)[start : start + size]


def _spread(sizes: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """About `count` indices of parameters, sorted: two of every tensor, the others anywhere."""
    params = sum(sizes)
    starts = itertools.accumulate(sizes, initial=0)
    own = [start + torch.randperm(size, generator=generator)[:2] for start, size in zip(starts, sizes, strict=False)]
    anywhere = torch.randperm(params, generator=generator)[: max(0, count - 2 * len(sizes))]
    return torch.cat([*own, anywhere]).unique()
