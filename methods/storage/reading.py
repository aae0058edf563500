"""Computes with a matrix in a file, one block of rows in memory at a time.

matrix = StoredMatrix("hessian.npy")
matrix.trace(), matrix.norm(), matrix.asymmetry()
values, vectors = scipy.sparse.linalg.eigsh(matrix, k=5)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path

import numpy

from methods.factoring.numerics import slices
from methods.storage.files import Description, data_offset, read_description

BLOCK_MB = 64.0


class StoredMatrix:
    """A symmetric matrix (P, P) in a file, whole. SciPy takes it as a linear operator: it has shape, dtype and matvec.

    `block_mb` is the size of a block of rows in 10^6 bytes. It is all that is held of the matrix, and at least a row.

    Raises FileNotFoundError where a file is missing; ValueError for a description or an array that is not as
    `methods.storage.files` writes them, for a matrix whose rows are not all written, and a `block_mb` not above 0.
    """

    def __init__(self, path: str | Path, block_mb: float = BLOCK_MB) -> None:
        self.path = Path(path)
        self.description = read_description(self.path)
        rows, columns = self.description.shape
        self.shape = rows, columns
        self.dtype = numpy.dtype(self.description.dtype)
        self.block_mb = block_mb
        if self.description.rows_done < rows:
            raise ValueError(
                f"{self.path} is not whole: {self.description.rows_done} of {rows} rows are written; let the run that "
                "writes it finish, or resume it"
            )
        rows_at_once(self.description, block_mb)
        self._offset = data_offset(self.path, self.description)

    def blocks(self) -> Iterator[tuple[slice, numpy.ndarray]]:
        """Places and blocks of rows (c, P), in order. The next block overwrites the one before it."""
        return row_blocks(self.path, self.description, self.shape[0], self.block_mb)

    def matvec(self, vectors: numpy.ndarray) -> numpy.ndarray:
        """The matrix times one vector or several ((P,) -> (P,), (P, k) -> (P, k)), in one pass over the file.

        Raises ValueError for vectors of another length, and for complex ones.
        """
        vectors = numpy.asarray(vectors)
        if vectors.dtype.kind == "c":
            raise ValueError(f"vectors are {vectors.dtype}: multiply real and imaginary parts one after the other")
        if len(vectors) != self.shape[1]:
            raise ValueError(f"vectors are {vectors.shape}, and the matrix is {self.shape}")
        result = numpy.empty(vectors.shape, self.dtype)
        vectors = numpy.ascontiguousarray(vectors, self.dtype)
        for rows, block in self.blocks():
            result[rows] = block @ vectors
        return result

    def diagonal(self) -> numpy.ndarray:
        """The diagonal (P,)."""
        mapped = numpy.memmap(self.path, self.dtype, mode="r", offset=self._offset, shape=self.shape)
        return numpy.array(mapped.diagonal())

    def trace(self) -> float:
        """The sum of the diagonal, in float64."""
        return float(self.diagonal().sum(dtype=numpy.float64))

    def norm(self) -> float:
        """The Frobenius norm, with squares and their sum in float64."""
        squares = [numpy.einsum("ij,ij->", block, block, dtype=numpy.float64) for _, block in self.blocks()]
        return math.sqrt(math.fsum(squares))

    def asymmetry(self) -> float:
        """The largest |H_ij - H_ji|; NaN where there is one. Compares square tiles, two of them in a block's memory."""
        side = max(1, math.isqrt(int(self.block_mb * 1e6 / self.dtype.itemsize / 2)))
        tiles = slices(0, self.shape[0], side)
        worst = []
        for index, upper in enumerate(tiles):
            for lower in tiles[index:]:
                tile = self._tile(upper, lower)
                tile -= self._tile(lower, upper).T
                worst += [tile.max(), -tile.min()]
        return float(numpy.max(worst))

    def _tile(self, rows: slice, columns: slice) -> numpy.ndarray:
        """The entries (r, c) in some rows and columns."""
        tile = numpy.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        with self.path.open("rb", buffering=0) as stream:
            for row, entries in zip(range(rows.start, rows.stop), tile, strict=True):
                stream.seek(self._offset + (row * self.shape[1] + columns.start) * self.dtype.itemsize)
                _fill(entries, stream)
        return tile


def row_blocks(
    path: Path, description: Description, count: int, block_mb: float
) -> Iterator[tuple[slice, numpy.ndarray]]:
    """Places and blocks (c, P) of the first `count` rows. The next block overwrites the one before it.

    Raises ValueError as `StoredMatrix` does.
    """
    offset = data_offset(path, description)
    at_once = min(rows_at_once(description, block_mb), count)
    memory = numpy.empty((at_once, description.shape[1]), description.dtype)
    with path.open("rb") as stream:
        stream.seek(offset)
        for rows in slices(0, count, at_once):
            block = memory[: rows.stop - rows.start]
            _fill(block, stream)
            yield rows, block


def _fill(array: numpy.ndarray, stream: FileIO | BufferedReader) -> None:
    """Read an array from a file. Raises OSError where that ends before."""
    read = stream.readinto(array.data.cast("B"))
    if read != array.nbytes:
        raise OSError(f"{stream.name} was cut short while it was read")


def rows_at_once(description: Description, block_mb: float) -> int:
    """How many rows a block of `block_mb` (10^6 bytes) has; at least one. Raises ValueError unless it is above 0."""
    if not (isinstance(block_mb, int | float) and 0 < block_mb < math.inf):
        raise ValueError(f"block_mb must be a number above 0; found {block_mb}")
    row_bytes = description.shape[1] * numpy.dtype(description.dtype).itemsize
    return max(1, int(block_mb * 1e6 / row_bytes))
