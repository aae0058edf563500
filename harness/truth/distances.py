"""Distances of a result from the reference: of all that was compared, of the worst row, and from symmetry.

Where the true values are zero up to rounding, the reference says what errors are relative to
(`harness.truth.error_scale`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.truth.reference import Reference
from harness.truth.shards import BLOCK, RowShard

Distances = dict[str, float]  # relative_error, worst_error and, for matrices, asymmetry


def matrix_distances(found: Tensor | RowShard, truth: Reference) -> Distances:
    """The distances of a matrix (P, P). The asymmetry of one in shards is estimated from the directions."""
    size_of_zeros = truth.scale.sizes.get(found.dtype)
    columns = truth.values.T  # (c, P); R is symmetric, so its columns are its rows
    if isinstance(found, RowShard):
        assert truth.directions is not None
        rows, products = found.select(truth.columns), found.times(truth.directions)
        asymmetry = found.asymmetry(truth.directions)
    else:
        rows, products, asymmetry = found[truth.columns].to(torch.float64), None, _asymmetry(found)
        if truth.directions is not None:
            products = torch.cat([block.to(torch.float64) @ truth.directions for block in found.split(BLOCK)])
    if products is None or truth.products is None:
        relative = _relative(rows, columns, size_of_zeros)
    else:
        relative = _relative(products, truth.products, size_of_zeros)
    errors, scales = (rows - columns).abs(), columns.abs().amax(1, keepdim=True)
    return {
        "relative_error": relative,
        "worst_error": _worst(errors, scales, size_of_zeros),
        "asymmetry": asymmetry,
    }


def _asymmetry(found: Tensor) -> float:
    """The norm of H - H^T over that of H."""
    uneven = sum(
        float((rows.to(torch.float64) - columns.T.to(torch.float64)).square().sum())
        for rows, columns in zip(found.split(BLOCK), found.split(BLOCK, dim=1), strict=True)
    )
    size = sum(float(block.to(torch.float64).square().sum()) for block in found.split(BLOCK))
    return math.sqrt(uneven / size) if size else 0.0


def per_sample_distances(found: Tensor, truth: Reference) -> Distances:
    """The distances of each sample's matrix (N, D, D), compared in columns and, where these are some, by products."""
    size_of_zeros = truth.scale.sizes.get(found.dtype)
    blocks = found.to(torch.float64)
    columns = blocks[:, truth.columns].permute(2, 0, 1)  # (D, N, c): the blocks are symmetric, their rows are columns
    relative = _relative(columns, truth.values, size_of_zeros)
    if truth.directions is not None and truth.products is not None:
        directions = truth.directions.view(len(blocks), blocks.shape[1], -1)
        relative = _relative(torch.bmm(blocks, directions).flatten(0, 1), truth.products, size_of_zeros)
    return {
        "relative_error": relative,
        "worst_error": _worst((columns - truth.values).abs(), truth.values.abs().amax(0), size_of_zeros),
        "asymmetry": float((blocks - blocks.mT).norm()) / (float(blocks.norm()) or 1.0),
    }


def diagonal_distances(found: Tensor, truth: Reference) -> Distances:
    """The distances of a diagonal (P,), over the entries that are known."""
    assert truth.diagonal is not None
    assert truth.row_sizes is not None
    size_of_zeros = truth.scale.sizes.get(found.dtype)
    entries = found[truth.columns].to(torch.float64)
    return {
        "relative_error": _relative(entries, truth.diagonal, size_of_zeros),
        "worst_error": _worst((entries - truth.diagonal).abs(), truth.row_sizes, size_of_zeros),
    }


def hvp_distances(found: Tensor, truth: Reference) -> Distances:
    """The distances of Hessian-vector products (P, k)."""
    assert truth.products is not None
    size_of_zeros = truth.scale.sizes.get(found.dtype)
    products = found.to(torch.float64)
    errors, scales = (products - truth.products).abs(), truth.products.abs().amax(0)
    return {
        "relative_error": _relative(products, truth.products, size_of_zeros),
        "worst_error": _worst(errors, scales, size_of_zeros),
    }


def block_distances(found: Sequence[Tensor], truth: Reference) -> Distances:
    """The distances of diagonal blocks (size, size).

    Each block is compared by its products with the directions, and in the known columns that lie in it.
    """
    assert truth.blocks is not None
    size_of_zeros = truth.scale.sizes.get(found[0].dtype)
    starts = itertools.accumulate((len(block) for block in found), initial=0)
    products, worsts, uneven, size = [], [0.0], 0.0, 0.0
    for block, start, (directions, _) in zip(found, starts, truth.blocks, strict=False):
        block = block.to(torch.float64)
        inside = (truth.columns >= start) & (truth.columns < start + len(block))
        columns = block[:, truth.columns[inside] - start]
        true = truth.values[start : start + len(block), inside]
        if true.numel():
            worsts.append(_worst((columns - true).abs(), true.abs().amax(0), size_of_zeros))
        products.append((block @ directions).flatten())
        uneven += float((block - block.T).square().sum())
        size += float(block.square().sum())
    return {
        "relative_error": _relative(torch.cat(products), truth.compared, size_of_zeros),
        "worst_error": max(worsts),
        "asymmetry": math.sqrt(uneven / size) if size else 0.0,
    }


def _worst(errors: Tensor, scales: Tensor, size_of_zeros: float | None) -> float:
    """The largest error over its scale.

    Where a scale is zero, the error is over the largest scale. Where all are zero, it is over `size_of_zeros`.
    """
    if size_of_zeros is not None or not bool(scales.any()):
        return float(errors.max()) / (size_of_zeros or 1.0)
    return float((errors / torch.where(scales > 0, scales, scales.max())).max())


def _relative(found: Tensor, true: Tensor, size_of_zeros: float | None) -> float:
    """Frobenius distance over the norm of the true values, or over `size_of_zeros` where these are zero."""
    size = float(true.norm()) if size_of_zeros is None else size_of_zeros
    return float((found - true).norm()) / (size or 1.0)
