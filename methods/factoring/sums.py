"""The Hessian of a loss that is a sum over batches, which are gone through one after another.

A single batch is such a sum too. Matrix products are added up in the result as the batches are gone through. Whatever
takes rows is written afterwards, in another pass over the batches, also where products had been added up before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.factoring.certificate import Certificate
from methods.factoring.comparison import Comparison
from methods.factoring.costs import cheap_rows
from methods.factoring.fallback import Fallback, check_fallback, check_rows_allowed, report_failed
from methods.factoring.hessian import write_hessian
from methods.factoring.network import Network
from methods.factoring.plan import check_deterministic, planned
from methods.factoring.precision import full_precision
from methods.factoring.products import put
from methods.factoring.rows import ROWS, rows_from, rows_of
from methods.factoring.shard import Rows

Criterion = Callable[..., Tensor] | None  # None: the model computes its own loss
Batch = tuple[Criterion, Any, Any]  # criterion, inputs, targets
MEMORY = 2**29  # bytes that are used beside the result, unless half of the result is more


class Sum:
    """The sum over batches of `criterion(model(inputs), targets)`; the batches are gone through several times."""

    def __init__(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        self._model, self._batches = model, batches

    def networks(self) -> Iterator[Network]:
        """The network with each batch."""
        for criterion, inputs, targets in self._batches:
            yield Network(self._model, criterion, inputs, targets, by_entries=True)

    def product(self, vector: Tensor) -> Tensor:
        """The Hessian times a vector (P,), by double backward through the plain loss, in float64."""
        result = torch.zeros_like(vector, dtype=torch.float64)
        for network in self.networks():
            result += Certificate(network).product(vector)
        return result

    def write_rows(self, names: Iterable[str], rows: Rows, at_once: int = ROWS) -> None:
        """Write into `rows` those of the named parameters, and the mirror image of the others' entries.

        For a part of the matrix with other rows too, all rows of the named parameters are computed: the columns of the
        other rows are their mirror image.
        """
        names = list(names)
        if not names:
            return
        seen = set[tuple[int, int]]()
        for network in self.networks():
            others = [rows.within(span) for name, span in network.span.items() if name not in names]
            others = [span for span in others if span.start < span.stop]
            needed = slice(0, len(network.theta)) if others else slice(rows.start, rows.stop)
            for span, found in rows_of(network, names, at_once, needed):
                place, own = (span.start, span.stop), rows.within(span)
                put(rows.of(span), found[own.start - span.start : own.stop - span.start], place in seen)
                for other in others:
                    put(rows.of(other)[:, span], found[:, other].T, place in seen)
                seen.add(place)


class Written(NamedTuple):
    """The state after some batches, whose matrix products are added up in the result."""

    product: Tensor  # (P,) the true Hessian of these batches times `comparison.probe`, in float64
    comparison: Comparison
    reasons: dict[str, str]  # why parameters take rows, which are not written


def write_products(before: Written | None, network: Network, rows: Rows, memory: float, fallback: Fallback) -> Written:
    """Write into `rows` the Hessian of a first batch, or add that of a further one to it.

    What parameters of the resulting `reasons` have there does not count.
    """
    earlier = {} if before is None else before.reasons
    certificate = Certificate(network)
    add = before is not None
    cheap = cheap_rows(certificate.gradients, network.samples)
    if cheap is not None:
        check_deterministic(network, certificate)
        _write_cheap_rows(network, certificate, rows, cheap.fitting(memory, rows.entries), add)
        reasons = earlier
    else:
        reasons = _write_products(network, certificate, earlier, rows, memory, fallback, add)
    product, comparison = certificate.product(certificate.vector).double(), certificate.comparison
    if before is None:
        return Written(product, comparison, reasons)
    terms = before.comparison.terms + comparison.terms
    precision = max(before.comparison.precision, comparison.precision, key=lambda dtype: torch.finfo(dtype).eps)
    return Written(before.product + product, replace(comparison, terms=terms, precision=precision), reasons)


def _write_cheap_rows(network: Network, certificate: Certificate, rows: Rows, at_once: int, add: bool) -> None:
    """Write `rows`, by the graph of the certificate's gradient. Of a whole matrix, half is a mirror image."""
    needed, mirrored = slice(rows.start, rows.stop), rows.are_all
    for own, columns, tile in rows_from(network, certificate.gradients, needed, at_once, later=mirrored):
        put(rows.of(own)[:, columns], tile, add)
        below = slice(max(columns.start, own.stop), columns.stop)
        if mirrored and below.start < below.stop:
            put(rows.of(below)[:, own], tile[:, below.start - columns.start :].T, add)


def _write_products(
    network: Network,
    certificate: Certificate,
    earlier: Mapping[str, str],
    rows: Rows,
    memory: float,
    fallback: Fallback,
    add: bool,
) -> dict[str, str]:
    """Write matrix products into `rows`; returns why parameters take rows, which are not written."""
    plan = planned(
        network, certificate, lambda plan: write_hessian(network, plan, certificate, rows, memory, add), earlier
    )
    check_rows_allowed(plan, fallback, earlier)
    for name, penalty in plan.added().items():
        own, span = rows.within(network.span[name]), network.span[name]
        rows.diagonal(span).add_(penalty[own.start - span.start : own.stop - span.start])
    return plan.reasons


def write_sum(
    model: nn.Module, batches: Iterable[Batch], rows: Rows, memory_mb: float | None, fallback: Fallback
) -> None:
    """Write consecutive rows of the sum's Hessian, and check them, as `factored.hessian_over_batches` states."""
    check_fallback(fallback)
    memory = _memory(memory_mb, rows.entries)
    whole = Sum(model, batches)
    with full_precision():
        written = None
        for network in whole.networks():
            written = write_products(written, network, rows, memory, fallback)
        if written is None:
            raise ValueError("there are no batches")
        whole.write_rows(written.reasons, rows)
        probe, true = written.comparison.probe, written.product
        found = true.clone()
        in_turn: set[str] = set()  # parameters whose rows were computed again
        while True:
            found[rows.start : rows.stop] = rows.entries @ probe
            failed = written.comparison.differing(found, probe, true, whole.product)
            if not failed:
                return
            report_failed(failed, in_turn, fallback, stacklevel=5)
            in_turn |= failed.keys()
            whole.write_rows(failed, rows, at_once=1)


def _memory(memory_mb: float | None, out: Tensor) -> float:
    """Bytes for what is computed at once."""
    if memory_mb is None:
        return max(MEMORY, out.numel() * out.element_size() / 2)
    if not memory_mb >= 0:
        raise ValueError(f"memory_mb={memory_mb} must be a number of MiB")
    return memory_mb * 2**20
