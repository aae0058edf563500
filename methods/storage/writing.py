"""Writes a symmetric matrix over parameters into a file, by rows that survive a kill or in a mapped tensor.

write_hessian("hessian.npy", model, vmap_hvp.hvp, loss, theta, resume=True)

with mapped("hessian.npy", model, "factored") as out:
    factored.hessian(model, criterion, inputs, targets, out=out)
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from methods.chunks import one_hot
from methods.factoring.numerics import close, drawn, slices
from methods.storage.files import (
    Description,
    Parameters,
    create,
    data_offset,
    describe,
    json_path,
    read_description,
    storing,
    write_description,
)
from methods.storage.reading import BLOCK_MB, StoredMatrix, row_blocks, rows_at_once


def write_hessian(
    path: str | Path,
    parameters: Parameters,
    hvp: Callable[..., Tensor],
    *arguments: Any,
    resume: bool = False,
    block_mb: float = BLOCK_MB,
    **options: Any,
) -> StoredMatrix:
    """Write the symmetric matrix that `hvp(*arguments, vectors, **options)`, (P, k) -> (P, k), multiplies with.

    `hvp` is that of any module in `methods`, or a function like it. `parameters` are the network or, by name, the
    tensors that the matrix is over. Rows are products with one-hot vectors, computed and written in blocks of
    `block_mb` (10^6 bytes). About four times that is used in memory, beside what `hvp` uses.

    A block is recorded in the JSON file when it is on the disk. With `resume`, a run goes on after the last recorded
    block, and begins where there is none. Before that, the product of all finished rows with a random vector is
    compared with `hvp`. This finds other data, another loss, other code and damaged rows.

    Raises

    - FileExistsError where rows are written already and `resume` is not set, or an array has no description;
    - ValueError where a resumed run has other parameters, values, method or options, or other products than the
      finished rows; for products of another shape or dtype or with entries that are not finite; as `describe` and
      `StoredMatrix` do;
    - OSError where the disk is full or fails; finished rows are kept.
    """
    path = Path(path)
    method = f"{getattr(hvp, '__module__', '')}.{getattr(hvp, '__qualname__', type(hvp).__qualname__)}"
    description, theta = describe(parameters, method, options)
    at_once = rows_at_once(description, block_mb)

    def product(vectors: Tensor) -> Tensor:
        result = hvp(*arguments, vectors, **options).detach()
        _check_product(result, vectors)
        return result

    description = _begun(path, description, resume)
    offset = data_offset(path, description)
    if description.rows_done:
        _check_finished(path, description, product, theta, block_mb)
    for rows in slices(description.rows_done, len(theta), at_once):
        block = product(one_hot(rows, theta).T).T.contiguous().cpu()
        _check_finite(block, rows, description)
        kept = f"{rows.start} of {len(theta)} rows are kept: free space there, and run it again with resume=True"
        with storing(path, kept):
            _write_block(path, offset + rows.start * block[0].nbytes, block)
            write_description(path, dataclasses.replace(description, rows_done=rows.stop))
    return StoredMatrix(path, block_mb)


@contextlib.contextmanager
def mapped(path: str | Path, parameters: Parameters, method: str, **options: Any) -> Iterator[Tensor]:
    """A tensor (P, P) on the CPU that is a new file: for the `out` of a method that fills a matrix.

    The file is whole when the block ends without an error. Until then no row of it counts, so that a run that is killed
    begins anew. `parameters` are as in `write_hessian`; `method` and `options` are only recorded. Raises
    FileExistsError, OSError and ValueError as `write_hessian` does.
    """
    path = Path(path)
    description, _ = describe(parameters, method, options)
    description = _begun(path, description, resume=False)
    offset, shape = data_offset(path, description), tuple(description.shape)
    array = numpy.memmap(path, description.dtype, mode="r+", offset=offset, shape=shape)
    yield torch.from_numpy(array)
    with storing(path, "the matrix is not whole: compute it again"):
        array.flush()
        write_description(path, dataclasses.replace(description, rows_done=len(array)))


def _begun(path: Path, description: Description, resume: bool) -> Description:
    """The description of a file with its finished rows; a file without any is created anew."""
    if json_path(path).exists():
        found = read_description(path)
        if found.rows_done and not resume:
            raise FileExistsError(
                f"{path} is there with {found.rows_done} of {found.shape[0]} rows: go on with resume=True, remove it, "
                "or name another file"
            )
        if found.rows_done:
            differences = description.differences(found)
            if differences:
                raise ValueError(f"{path} cannot be resumed, it was written for: {differences}; name another file")
            return found
    elif path.exists():
        raise FileExistsError(f"{path} is there without {json_path(path).name}: remove it, or name another file")
    create(path, description)
    return description


def _write_block(path: Path, offset: int, block: Tensor) -> None:
    """Write rows (c, P) into the file, from `offset` on, and flush them to the disk."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(block.numpy().data.cast("B"))
        stream.flush()
        os.fsync(stream.fileno())


def _check_finished(
    path: Path, description: Description, product: Callable[[Tensor], Tensor], theta: Tensor, block_mb: float
) -> None:
    """Raise ValueError unless the finished rows times a random vector are the product's entries, up to rounding."""
    vector = drawn(theta)
    whole = product(vector[:, None])[:, 0].cpu()
    done = description.rows_done
    found = torch.empty_like(whole[:done])
    by_numpy = vector.cpu().numpy()
    for rows, block in row_blocks(path, description, done, block_mb):
        found[rows] = torch.from_numpy(block @ by_numpy)
    difference = found - whole[:done]
    if not close(difference, whole):
        distance = float(difference.norm() / whole.norm())
        raise ValueError(
            f"{path} cannot be resumed: its {done} finished rows times a random vector differ by {distance:.1e} of the "
            "product that this run computes; the data, the loss or the code are not the same, or the file is damaged"
        )


def _check_product(result: Tensor, vectors: Tensor) -> None:
    if result.shape != vectors.shape or result.dtype != vectors.dtype:
        raise ValueError(
            f"hvp gave {tuple(result.shape)} {result.dtype} for vectors {tuple(vectors.shape)} {vectors.dtype}; both "
            "must be alike"
        )


def _check_finite(block: Tensor, rows: slice, description: Description) -> None:
    """Raise ValueError for rows (c, P) with an entry that is not finite, naming the parameter of the first such row."""
    finite = block.isfinite().all(1)
    if finite.all():
        return
    row = rows.start + int(finite.logical_not().nonzero()[0])
    ends = itertools.accumulate(numpy.prod(part["shape"], dtype=int) for part in description.parameters)
    name = next(part["name"] for part, end in zip(description.parameters, ends, strict=True) if row < end)
    raise ValueError(f"row {row}, of parameter {name}, has entries that are not finite: look at the loss there")
