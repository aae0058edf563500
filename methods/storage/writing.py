"""Writes a symmetric matrix over parameters into a file, by rows that survive a kill or in a mapped tensor.

write_hessian("hessian.npy", model, vmap_hvp.hvp, loss, theta, resume=True)

with mapped("hessian.npy", model, "factored") as out:
    factored.hessian(model, criterion, inputs, targets, out=out)
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from methods.chunks import one_hot
from methods.factoring.comparison import Comparison
from methods.factoring.numerics import drawn, slices
from methods.ravel import ravel
from methods.storage.files import (
    Description,
    Parameters,
    create,
    data_offset,
    describe,
    json_path,
    name_of,
    only_writer,
    read_description,
    require_own,
    storing,
    write_description,
)
from methods.storage.reading import BLOCK_MB, StoredMatrix, row_blocks, rows_at_once

CHUNKS = "chunk_size", "memory_budget_mb"  # options that say how many rows are computed at once, not what they are


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
    compared with `hvp`, parameter by parameter. This finds other data, another loss, other code and damaged rows.

    Raises

    - FileExistsError where rows are written already and `resume` is not set, where an array is not the one described,
      and while another process writes the file;
    - ValueError where a resumed run has other parameters, values, method or options (those of CHUNKS may differ), or
      other products than the finished rows; where `hvp` is given another theta or model than `parameters`; for products
      of another shape or dtype or with entries that are not finite; as `describe` and `StoredMatrix` do;
    - OSError where the disk is full or fails; finished rows are kept.
    """
    path = Path(path)
    recorded = {name: value for name, value in options.items() if name not in CHUNKS}
    description, theta = describe(parameters, name_of(hvp), recorded)
    _check_given(hvp, arguments, theta)
    at_once = rows_at_once(description, block_mb)

    def product(vectors: Tensor) -> Tensor:
        result = hvp(*arguments, vectors, **options)
        _check_product(result, vectors)
        return result.detach()

    with only_writer(path):
        description = _begun(path, description, resume)
        offset = data_offset(path, description)
        if description.rows_done:
            _check_finished(path, description, product, theta, block_mb)
        for rows in slices(description.rows_done, len(theta), at_once):
            block = product(one_hot(rows, theta).T).T.contiguous().cpu()
            _check_finite(block, rows, description)
            kept = f"{rows.start} of {len(theta)} rows are kept, and resume=True goes on from there"
            with storing(path, kept):
                _write_block(path, offset + rows.start * block[0].nbytes, block)
                write_description(path, dataclasses.replace(description, rows_done=rows.stop))
    return StoredMatrix(path, block_mb)


@contextlib.contextmanager
def mapped(path: str | Path, parameters: Parameters, method: str, **options: Any) -> Iterator[Tensor]:
    """A tensor (P, P) on the CPU that is a new file: for the `out` of a method that fills a matrix.

    The file is whole when the block ends without an error and all entries are finite: the diagonal is NaN until it is
    written. Until then no row of it counts, so that a run that is killed begins anew. `parameters` are as in
    `write_hessian`; `method` and `options` are only recorded. Raises FileExistsError, OSError and ValueError as
    `write_hessian` does.
    """
    path = Path(path)
    description, _ = describe(parameters, method, options)
    with only_writer(path):
        description = _begun(path, description, resume=False)
        offset, shape = data_offset(path, description), tuple(description.shape)
        array = numpy.memmap(path, description.dtype, mode="r+", offset=offset, shape=shape)
        out = torch.from_numpy(array)
        yield out.fill_diagonal_(math.nan)
        for rows in slices(0, len(out), rows_at_once(description, BLOCK_MB)):
            _check_finite(out[rows], rows, description)
        with storing(path, "the matrix is not whole"):
            array.flush()
            write_description(path, dataclasses.replace(description, rows_done=len(out)))


def _begun(path: Path, description: Description, resume: bool) -> Description:
    """The description of a file with its finished rows; a file without any is created anew. The path is locked."""
    place = json_path(path)
    if place.exists():
        found = read_description(path)
        if found.rows_done and not resume:
            raise FileExistsError(
                f"{path} is there with {found.rows_done} of {found.shape[0]} rows: remove it and {place.name}, name "
                "another file, or go on with write_hessian and resume=True"
            )
        if found.rows_done:
            differences = description.differences(found)
            if differences:
                raise ValueError(
                    f"{path} cannot be resumed, it was written for: {differences}; call it as before, or "
                    "name another file"
                )
            return found
        require_own(path, found)
    elif path.stat().st_size:
        raise FileExistsError(f"{path} is there without {place.name}: remove it, or name another file")
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
    """Raise ValueError unless the finished rows times a random vector are the product's entries, up to rounding.

    Rows that are all smaller than the rounding errors of the whole product are not compared.
    """
    vector, done = drawn(theta), description.rows_done
    found = theta.new_empty(done, device="cpu")
    by_numpy = vector.cpu().numpy()
    for rows, block in row_blocks(path, description, done, block_mb):
        found[rows] = torch.from_numpy(block @ by_numpy)

    def finished(vector: Tensor) -> Tensor:
        return product(vector[:, None])[:done, 0].cpu()

    whole = product(vector[:, None])[:, 0].cpu()
    true = whole[:done]
    if max(found.norm(), true.norm()) <= torch.finfo(theta.dtype).eps * whole.norm():
        return
    comparison = Comparison(_spans(description, done), theta.dtype, terms=0.0, probe=drawn(theta, seed=1))
    far = comparison.far(found, true) and comparison.far(found, true, comparison.noise(vector, true, finished))
    if far:
        worst = max(far, key=far.__getitem__)
        raise ValueError(
            f"{path} cannot be resumed: its finished rows of {worst} times a random vector differ by {far[worst]:.1e} "
            "of the product that this run computes; the data, the loss or the code are not the same, or the file is "
            "damaged"
        )


def _spans(description: Description, stop: int) -> dict[str, slice]:
    """The rows before `stop` of each parameter that has some."""
    bounds = itertools.accumulate((math.prod(part["shape"]) for part in description.parameters), initial=0)
    return {
        part["name"]: slice(start, min(end, stop))
        for part, (start, end) in zip(description.parameters, itertools.pairwise(bounds), strict=True)
        if start < min(end, stop)
    }


def _check_given(hvp: Callable[..., Tensor], arguments: Sequence[Any], theta: Tensor) -> None:
    """Raise ValueError where the arguments `theta` or `model` of `hvp` do not hold the parameters' values."""
    try:
        names = list(inspect.signature(hvp).parameters)
    except ValueError:  # a builtin
        return
    for name, argument in zip(names, arguments, strict=False):
        if name not in ("theta", "model"):
            continue
        given = argument if isinstance(argument, Tensor) else ravel(argument)[0]
        if given.shape != theta.shape or not given.detach().equal(theta):
            raise ValueError(f"hvp is given a {name} with other values than `parameters`: give both the same")


def _check_product(result: Any, vectors: Tensor) -> None:
    if not isinstance(result, Tensor):
        raise ValueError(f"hvp gave {type(result).__name__}; it must give a tensor of products like its vectors")
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
    name = next(name for name, span in _spans(description, description.shape[0]).items() if row < span.stop)
    raise ValueError(
        f"row {row}, of parameter {name}, has entries that are not finite: look at the loss there, and at whether the "
        "method was given `out`"
    )
