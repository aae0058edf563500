"""The kinds of results that are more than tensors: those that `methods.estimates` describes, read by their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A random estimate, its standard error (of the same shape), and the number of its independent probes."""

    value: Tensor
    standard_error: Tensor
    probes: int
    products: int | None = None


class Bounded(NamedTuple):
    """A result of finite precision, with what it states of its error, and the products that were spent."""

    value: Tensor
    error: Tensor
    products: int


class Spectrum(NamedTuple):
    """A spectral density: nodes with their weights, and the first four moments with their standard errors."""

    nodes: Tensor
    weights: Tensor
    moments: Tensor
    moment_errors: Tensor
    products: int | None = None


KINDS = (Estimate, Bounded, Spectrum)


def kind_of(result: Any) -> type[Any] | None:
    """The kind of a result, which has all fields of that kind but those with a default; None for all else."""
    try:
        for kind in KINDS:
            if all(hasattr(result, name) for name in kind._fields if name not in kind._field_defaults):
                return kind
    except Exception:  # the attributes of an object may fail with any exception
        return None
    return None


def mapped(function: Callable[[Any], Any], result: Any) -> Any:
    """A result of a kind, with a function applied to each of its fields; None where it is of no kind."""
    kind = kind_of(result)
    if kind is None:
        return None
    values = {name: getattr(result, name, default) for name, default in kind._field_defaults.items()}
    values |= {name: getattr(result, name) for name in kind._fields if name not in values}
    return kind(**{name: function(value) for name, value in values.items()})


def tensors_of_kind(result: Any) -> tuple[str, ...]:
    """The names of the fields of a result of a kind that hold tensors."""
    return tuple(name for name in type(result)._fields if name not in ("probes", "products"))


def products_of(result: Any) -> int | None:
    """The Hessian-vector products that a result says it took; None where it does not say."""
    products = getattr(result, "products", None) if kind_of(result) is not None else None
    return products if products is not None or not isinstance(result, Estimate) else result.probes


def count_fault(result: Any) -> str | None:
    """What is wrong with the counts of a result of a kind: its probes and products."""
    if isinstance(result, Estimate) and not (type(result.probes) is int and result.probes >= 1):
        return f"returned an estimate from {result.probes!r} probes; it must be a whole number of at least 1"
    products = result.products
    optional = products is None and "products" in type(result)._field_defaults
    if optional or (type(products) is int and products >= 0):
        return None
    return f"returned a result of {products!r} products; it must be a whole number of at least 0"
