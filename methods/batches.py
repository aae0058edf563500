"""A Hessian, its diagonal or its products over a data set in batches, by any method: one batch in memory at a time.

    from methods import batches, factored

    H = batches.hessian(factored, model, criterion, loader)  # (P, P), of the loss over all samples

A quantity of the loss over all samples is the sum of those of its batches, each with a weight. Where the criterion is a
mean, the weight is the batch's share of what the mean divides by: of the samples, of the targets that are not ignored,
of their class weights. Where it is a sum, the weights are one.

These functions take:

- `method`: a module with a function named for the quantity, such as `methods.vmap_hvp`.
- `criterion`: one of torch.nn, or any other with `weights`; None for a model that computes its own loss.
- `batches`: what can be gone through several times, and gives the same (inputs, targets) each time, or inputs alone: a
  list, a DataLoader without shuffling, a generator function. Batches may differ in size. Their tensors are moved to the
  device of the parameters.
- `weights`: for a criterion that is none of torch.nn's, or a model's own loss: "mean" over samples, "sum", or a
  function of (inputs, targets) that returns what the criterion's mean divides by.
- `progress`: a function of (batches that are done, all batches), called after each; again where a method takes another
  pass over the batches.
- `group`: a group of processes (torch.distributed), each of which gives batches of its own; every process gets the sum
  over the batches of all. A process needs a batch with a target that counts.
- further options, which the method is given.

Results are added up in the method's dtype, but at least in float32. Beside the result there is one result of a batch;
`methods.factored` adds up in the result itself.

Raises ValueError for batches that can be gone through only once or that change, and for a criterion without `weights`
that needs them; NotImplementedError where the loss is no weighted sum over batches, as under batch statistics and
dropout (`methods.batching.additivity`), and for a method without this quantity or whose results cannot be added up.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from methods import calls
from methods.batching import additivity
from methods.batching.divisors import Divisor, divisor_of
from methods.batching.passes import Batch, Batches, Progress
from methods.ravel import leaves_of, ravel

Criterion = Callable[..., Tensor] | None


def hessian(
    method: ModuleType, model: nn.Module, criterion: Criterion, batches: Iterable[Any], **options: Any
) -> Tensor:
    """Hessian (P, P) of the loss over all batches, in `model.named_parameters()` order."""
    return summed(_function(method, "hessian"), model, criterion, batches, **options)


def diagonal(
    method: ModuleType, model: nn.Module, criterion: Criterion, batches: Iterable[Any], **options: Any
) -> Tensor:
    """Diagonal (P,) of that Hessian."""
    return summed(_function(method, "diagonal"), model, criterion, batches, **options)


def block_diagonal(
    method: ModuleType, model: nn.Module, criterion: Criterion, batches: Iterable[Any], **options: Any
) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of that Hessian in a tuple: of parameter tensors, or of parts of the option `sizes`."""
    return summed(_function(method, "block_diagonal"), model, criterion, batches, **options)


def hvp(
    method: ModuleType,
    model: nn.Module,
    criterion: Criterion,
    batches: Iterable[Any],
    vectors: Tensor,
    **options: Any,
) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k)."""
    return summed(_function(method, "hvp"), model, criterion, batches, vectors=vectors, **options)


def ggn(method: ModuleType, model: nn.Module, criterion: Criterion, batches: Iterable[Any], **options: Any) -> Tensor:
    """Generalised Gauss-Newton matrix (P, P) of the loss over all batches."""
    return summed(_function(method, "ggn"), model, criterion, batches, **options)


def summed(
    function: Callable[..., Any],
    model: nn.Module,
    criterion: Criterion,
    batches: Iterable[Any],
    *,
    weights: str | Divisor | None = None,
    progress: Progress | None = None,
    sizes: tuple[int, ...] | None = None,
    vectors: Tensor | None = None,
    group: ProcessGroup | None = None,
    **options: Any,
) -> Any:
    """The quantity that a function of a method computes, of the loss over all batches: a tensor, or a tuple of them.

    The function is given what it asks for by name: `loss` and `theta`, or `model`, `criterion`, `inputs` and `targets`,
    and `sizes` or `vectors`. A function with another one beside it, `<name>_over_batches(model, batches)`, adds up
    itself: that one is given batches (criterion, inputs, targets), with criteria that include the weights.
    """
    theta, unravel = ravel(model)
    calls.completed(criterion, None)  # refuses a class
    divisor = divisor_of(criterion, weights)
    passes = Batches(batches, divisor, theta.device, progress, group)
    additivity.check(model, criterion, passes.moved(), divisor, every=weights is not None)
    over_batches = getattr(sys.modules[function.__module__], f"{function.__name__}_over_batches", None)
    if over_batches is not None and group is None:
        return over_batches(model, _Weighted(criterion, passes), **options)
    given = {"theta": theta, "model": model, "vectors": vectors}
    given["sizes"] = tuple(leaf.numel() for leaf in leaves_of(model)) if sizes is None else sizes
    asked = inspect.signature(function).parameters

    def quantity(batch: Batch) -> Any:
        completed = calls.completed(criterion, batch.targets)
        loss = calls.loss_of(model, completed, *batch)
        of_batch = batch._asdict() | {"criterion": completed, "loss": lambda theta: loss(unravel(theta))}
        arguments = {name: value for name, value in (given | of_batch).items() if name in asked}
        return function(**arguments, **options)

    total = _Total()
    for weight, batch in passes:
        total.add(weight, quantity(batch))
    if group is not None:
        total.reduce(group)
    return total.value()


class _Weighted:
    """The batches as (criterion, inputs, targets), with criteria that are multiplied by the weights."""

    def __init__(self, criterion: Criterion, passes: Batches) -> None:
        self._criterion, self._passes = criterion, passes

    def __iter__(self) -> Iterator[tuple[Criterion, Any, Any]]:
        for weight, batch in self._passes:
            yield _times(weight, calls.completed(self._criterion, batch.targets)), batch.inputs, batch.targets


def _times(weight: float, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda outputs, targets: weight * criterion(outputs, targets)


class _Total:
    """The weighted sum of results: tensors, or tuples of tensors."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, weight: float, result: Any) -> None:
        """Add a result. Raises NotImplementedError for what is no tensor or tuple of tensors, such as an estimate."""
        self._single = isinstance(result, Tensor)
        parts = [result] if self._single else result
        if not (self._single or type(result) is tuple) or not all(isinstance(part, Tensor) for part in parts):
            raise NotImplementedError(f"results of type {type(result).__name__} cannot be added up over batches")
        if not self._sums:
            self._dtypes = [part.dtype for part in parts]
            self._sums = [weight * part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]
            return
        for total, part in zip(self._sums, parts, strict=True):
            total.add_(part, alpha=weight)

    def reduce(self, group: ProcessGroup) -> None:
        """Add the sums of the group's other processes."""
        for total in self._sums:
            distributed.all_reduce(total, group=group)

    def value(self) -> Tensor | tuple[Tensor, ...]:
        """The sum, in the dtype of the results."""
        found = tuple(total.to(dtype) for total, dtype in zip(self._sums, self._dtypes, strict=True))
        return found[0] if self._single else found


def _function(method: ModuleType, quantity: str) -> Callable[..., Any]:
    function = getattr(method, quantity, None)
    if not callable(function):
        raise NotImplementedError(
            f"{getattr(method, '__name__', method)} has no function {quantity}: give a module such as methods.vmap_hvp"
        )
    return function
