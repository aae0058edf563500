"""Consecutive rows of a Hessian, and where the entries of affine maps' parameters lie in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from methods.factoring.uses import Part, Use


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a Hessian (P, P): all of them, or those that one process computes."""

    entries: Tensor  # (c, P)
    start: int  # the first of them

    @property
    def stop(self) -> int:
        """The row after the last of them."""
        return self.start + len(self.entries)

    @property
    def are_all(self) -> bool:
        """Whether they are the whole matrix."""
        return len(self.entries) == self.entries.shape[1]

    def within(self, span: slice) -> slice:
        """Those of a span of theta that are among these rows, as a span of theta; it may be empty."""
        start = min(max(span.start, self.start), self.stop)
        return slice(start, max(min(span.stop, self.stop), start))

    def of(self, span: slice) -> Tensor:
        """The rows of a span of theta that are among these, as a view (c, P)."""
        own = self.within(span)
        return self.entries[own.start - self.start : own.stop - self.start]

    def diagonal(self, span: slice) -> Tensor:
        """The entries (c,) on the diagonal of a span of theta that are among these rows, as a view."""
        own = self.within(span)
        return self.of(span)[:, own].diagonal()

    def hold(self, use: Use, *parts: Part) -> bool:
        """Whether all rows of some parts of a call are among these."""
        ends = [(part.start, part.start + use.gradient.shape[2] * part.features.shape[2]) for part in parts]
        return all(self.start <= start and stop <= self.stop for start, stop in ends)

    def rectangles(self, use: Use, part: Part) -> Iterator[tuple[slice, slice]]:
        """The outputs i and inputs j of a part whose rows are among these: at most three rectangles."""
        outputs, inputs = use.gradient.shape[2], part.features.shape[2]
        minor = outputs if part.transposed else inputs  # the index that runs along consecutive rows
        own = self.within(slice(part.start, part.start + outputs * inputs))
        for major, along in _rectangles(own.start - part.start, own.stop - part.start, minor):
            yield (along, major) if part.transposed else (major, along)

    def tile(
        self, use: Use, x: Part, i: slice, j: slice, other: Use, y: Part, p: slice | None = None, q: slice | None = None
    ) -> Tensor:
        """Entries of two parts as a view (i, j, p, q); the rows of these outputs and inputs are among the rows."""
        p, q = p or slice(0, other.gradient.shape[2]), q or slice(0, y.features.shape[2])
        down, along = self.entries.stride()
        rows, columns = _strides(use, x), _strides(other, y)
        first = x.start + i.start * rows[0] + j.start * rows[1] - self.start
        first_column = y.start + p.start * columns[0] + q.start * columns[1]
        return self.entries.as_strided(
            (i.stop - i.start, j.stop - j.start, p.stop - p.start, q.stop - q.start),
            (rows[0] * down, rows[1] * down, columns[0] * along, columns[1] * along),
            self.entries.storage_offset() + first * down + first_column * along,
        )


def _strides(use: Use, part: Part) -> tuple[int, int]:
    """How far two outputs and two inputs of a part are apart in theta."""
    return (1, use.gradient.shape[2]) if part.transposed else (part.features.shape[2], 1)


def _rectangles(start: int, stop: int, minor: int) -> Iterator[tuple[slice, slice]]:
    """The indices from start to stop of an array (major, minor), as rectangles."""
    (first, begin), (last, end) = divmod(start, minor), divmod(stop, minor)
    if start >= stop:
        return
    if first == last:
        yield slice(first, first + 1), slice(begin, end)
        return
    if begin:
        yield slice(first, first + 1), slice(begin, minor)
        first += 1
    if first < last:
        yield slice(first, last), slice(0, minor)
    if end:
        yield slice(last, last + 1), slice(0, end)
