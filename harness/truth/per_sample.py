"""Each sample's own derivatives: their true values, and the shapes of results.

The Hessian of the losses of all samples together is block-diagonal (`harness.problems.per_sample`). So one product with
it gives the same column of every block, and D products give all N blocks (D, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.job import Measure
from harness.truth.products import CHUNK, Products


def true_values(
    products: Products,
    shape: tuple[int, int],
    vectors: Tensor | None,
    measure: Measure,
    generator: torch.Generator,
    quantity: str,
) -> dict[str, Any]:
    """The fields of a `harness.truth.reference.Reference` that hold true values, for N samples of D variables.

    - hvp: the products (N D, m) with `vectors`.
    - trace: the traces (N,) as `diagonal`, and the sums of their terms' sizes as `row_sizes`.
    - hessian: columns of the blocks, as `values` (D, N, c).
    - diagonal: the entries (N c,) in the same columns, as of one diagonal (N D,).

    The columns are all D, unless D is above `measure.rows` and N D above `measure.full_up_to`. Then they are
    `measure.rows` random ones, and a Hessian is also known by its products with random directions (N D, k), which see
    every entry.
    """
    count, size = shape
    nothing = torch.arange(0)
    if vectors is not None:
        values = vectors.new_zeros(len(vectors), 0)
        return {"columns": nothing, "values": values, "directions": vectors, "products": products(vectors)}
    if quantity == "trace":
        return _traces(products, count, size)
    columns = torch.arange(size)
    if size > max(measure.rows, measure.full_up_to // count):
        columns = torch.randperm(size, generator=generator)[: measure.rows].sort().values
    values = _columns(products, count, size, columns)
    if quantity == "diagonal":
        return {
            "columns": (torch.arange(count)[:, None] * size + columns).flatten(),
            "values": torch.zeros(count * size, 0, dtype=torch.float64),
            "diagonal": _own(values, columns).flatten(),
            "row_sizes": values.abs().amax(0).flatten(),
        }
    known: dict[str, Any] = {"columns": columns, "values": values}
    if len(columns) == size:
        return known
    directions = torch.randn(count * size, measure.probes, generator=generator, dtype=torch.float64)
    return known | {"directions": directions, "products": products(directions)}


def _columns(products: Products, count: int, size: int, columns: Tensor) -> Tensor:
    """Some columns of every sample's block: (D, N, c)."""
    units = torch.eye(size, dtype=torch.float64)[:, columns].repeat(count, 1)
    return products(units).view(count, size, len(columns)).transpose(0, 1)


def _own(values: Tensor, columns: Tensor) -> Tensor:
    """The entries on the diagonals (N, c) of columns (D, N, c)."""
    return values[columns, :, torch.arange(len(columns))].T


def _traces(products: Products, count: int, size: int) -> dict[str, Any]:
    traces = torch.zeros(count, dtype=torch.float64)
    sizes = torch.zeros_like(traces)
    for columns in torch.arange(size).split(CHUNK):
        entries = _own(_columns(products, count, size, columns), columns)
        traces += entries.sum(1)
        sizes += entries.abs().sum(1)
    return {
        "columns": torch.arange(count),
        "values": torch.zeros(count, 0, dtype=torch.float64),
        "diagonal": traces,
        "row_sizes": sizes,
    }


def shape_of(quantity: str, points: Tensor, vectors: Tensor | None) -> tuple[int, ...]:
    """The shape of a result for points (N, D), with `vectors` (N D, m) of an hvp."""
    count, size = points.shape
    if quantity == "trace":
        return (count,)
    if vectors is not None:
        return (count, size, vectors.shape[1])
    return (count, size) if quantity == "diagonal" else (count, size, size)


def flattened(result: Any, quantity: str) -> tuple[Any, str]:
    """A plain result of all samples as one, and the quantity as which it is compared.

    Diagonals (N, D) and traces (N,) are a diagonal, products (N, D, m) are products (N D, m). Hessians stay.
    """
    if quantity == "hessian":
        return result, quantity
    if isinstance(result, tuple):
        parts = [flattened(part, quantity)[0] if isinstance(part, Tensor) else part for part in result]
        return type(result)(*parts), "hvp" if quantity == "hvp" else "diagonal"
    return (result.flatten(0, 1), "hvp") if quantity == "hvp" else (result.flatten(), "diagonal")
