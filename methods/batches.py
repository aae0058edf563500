"""A Hessian, its diagonal or its products over a data set in batches, by any method.

    from methods import batches, factored

    H = batches.hessian(factored, model, criterion, loader)  # (P, P), of the loss over all samples

A quantity of the loss over all samples is the sum of those of its batches, each with a weight. Where the criterion is a
mean, the weight is the batch's share of what the mean divides by: of the samples, of the targets that are not ignored,
of their class weights. Where it is a sum, the weights are one.

These functions take:

- `method`: a module with a function named for the quantity, such as `methods.vmap_hvp`.
- `criterion`: one of torch.nn, or any other with `weights`; None for a model that computes its own loss.
- `batches`: a list, a DataLoader without shuffling, a generator function, or whatever else can be gone through several
  times and gives the same (inputs, targets) each time, or inputs alone. Batches may differ in size. Their tensors are
  moved to the device of the parameters.
- `weights`: for a criterion that is none of torch.nn's, or a model's own loss: "mean" over samples, "sum", or a
  function of (inputs, targets) that returns what the criterion's mean divides by.
- `progress`: a function of (batches that are done, all batches), called after each; again where a method takes another
  pass over the batches.
- `parameters`: patterns of the names of parameters, as in `methods.ravel`; the others are constant.
- `out`: a tensor for a result that is one tensor, which may be a memory-mapped file; it is returned.
- `group`: a group of processes (torch.distributed), each of which gives batches of its own; every process gets the sum
  over the batches of all. An error in one of them is raised in all.
- further options, which the method is given.

Results are added up in the method's dtype, but at least in float32; `out` has that dtype. At most two batches are in
memory at a time: one, and the next while it is made; the check of the loss also copies some of their samples. Beside
the result there is one result of a batch; `methods.factored.hessian` adds up in the result itself.

Raises ValueError for batches that can be gone through only once or that change, for a criterion without `weights` that
needs them, for targets that it would broadcast, for options that the method does not take, and for an `out` of another
shape, dtype or device; NotImplementedError where the loss is no weighted sum over batches, as under batch statistics
and dropout (`methods.batching.additivity`), and for a method without this quantity or whose results cannot be added up.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils._pytree import tree_map_only

from methods import calls
from methods.batching import additivity
from methods.batching.divisors import Divisor, Weights, divisor_of, name_of, require_same_shape
from methods.batching.gradients import Criterion
from methods.batching.group import objects, of_all
from methods.batching.passes import Batches, Progress
from methods.batching.total import Total
from methods.ravel import Patterns, leaves_of, only, ravel
from methods.samples import Batch, Source

GIVEN = ("loss", "theta", "model", "criterion", "inputs", "targets")  # arguments of methods that each batch gives


def hessian(method: ModuleType, model: nn.Module, criterion: Criterion, batches: Source, **options: Any) -> Tensor:
    """Hessian (P, P) of the loss over all batches, in `model.named_parameters()` order."""
    return summed(_function(method, "hessian"), model, criterion, batches, **options)


def diagonal(method: ModuleType, model: nn.Module, criterion: Criterion, batches: Source, **options: Any) -> Tensor:
    """Diagonal (P,) of that Hessian."""
    return summed(_function(method, "diagonal"), model, criterion, batches, **options)


def block_diagonal(
    method: ModuleType, model: nn.Module, criterion: Criterion, batches: Source, **options: Any
) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of that Hessian in a tuple: of parameter tensors, or of parts of the option `sizes`."""
    return summed(_function(method, "block_diagonal"), model, criterion, batches, **options)


def hvp(
    method: ModuleType,
    model: nn.Module,
    criterion: Criterion,
    batches: Source,
    vectors: Tensor,
    *,
    parameters: Patterns = None,
    **options: Any,
) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k). Raises ValueError for vectors of another shape."""
    size = sum(leaf.numel() for leaf in leaves_of(model, parameters))
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != size or not vectors.shape[1]:
        found = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"vectors must be a tensor ({size}, k) with k of at least 1; found {found}")
    function = _function(method, "hvp")
    return summed(function, model, criterion, batches, vectors=vectors, parameters=parameters, **options)


def ggn(method: ModuleType, model: nn.Module, criterion: Criterion, batches: Source, **options: Any) -> Tensor:
    """Generalised Gauss-Newton matrix (P, P) of the loss over all batches."""
    return summed(_function(method, "ggn"), model, criterion, batches, **options)


def summed(
    function: Callable[..., Any],
    model: nn.Module,
    criterion: Criterion,
    batches: Source,
    *,
    weights: Weights = None,
    progress: Progress | None = None,
    out: Tensor | None = None,
    group: ProcessGroup | None = None,
    parameters: Patterns = None,
    **options: Any,
) -> Any:
    """The quantity that a function of a method computes, of the loss over all batches: a tensor, or a tuple of them.

    The function is given what it asks for by name: `loss` and `theta`, or `model`, `criterion`, `inputs` and `targets`,
    and the `sizes` of the parameter tensors. It must take the other `options`. A function with another one beside it,
    `<name>_over_batches(model, batches)`, adds up itself: that one is given batches (criterion, inputs, targets), with
    criteria that include the weights, and `out`.
    """
    with only(model, parameters):
        if isinstance(function, functools.partial) and not function.args:
            function, options = function.func, function.keywords | options
            given_out = options.pop("out", None)
            out = given_out if out is None else out
        theta, unravel = ravel(model)
        calls.completed(criterion, None)  # refuses a class
        asked = [name for name in GIVEN if name in inspect.signature(function).parameters]
        over_batches = _over_batches(function) if group is None else None
        if over_batches is not None:
            options |= {} if out is None else {"out": out}
            _require_options(over_batches, ["model", "batches"], options)
        else:
            if "sizes" in inspect.signature(function).parameters:
                options.setdefault("sizes", tuple(leaf.numel() for leaf in leaves_of(model)))
            _require_options(function, asked, options)
        divisor = divisor_of(criterion, weights)

        def examine(batch: Batch) -> None:
            if weights is None:
                require_same_shape(model, criterion, batch)

        passes = Batches(batches, theta.device, divisor, examine, progress, group)
        _require_additive(model, criterion, passes, divisor, weights is not None, group)
        if over_batches is not None:
            return over_batches(model, _WeighedBatches(criterion, passes), **options)

        def quantity(batch: Batch) -> Any:
            completed = calls.completed(criterion, batch.targets)
            loss = calls.loss_of(model, completed, *batch)
            given = {"loss": lambda theta: loss(unravel(theta)), "theta": theta, "model": model, "criterion": completed}
            given |= batch._asdict()
            return function(**{name: given[name] for name in asked}, **options)

        total = Total(out)

        def add_own() -> float:
            for weight, batch in passes:
                total.add(weight, quantity(batch))
            return 0.0

        if group is None:
            add_own()
        else:
            of_all(group, theta.device, add_own)
            total.reduce(group, theta.device, all(passes.totals))
        return total.value()


def _require_additive(
    model: nn.Module,
    criterion: Criterion,
    passes: Batches,
    divisor: Divisor | None,
    every: bool,
    group: ProcessGroup | None,
) -> None:
    """Raise NotImplementedError where the loss is no weighted sum over batches.

    Where no process of a group can compare anything, since each has one sample, they give each other a batch.
    """

    def check(batches: Iterable[Batch]) -> bool:
        return additivity.check(model, criterion, batches, divisor, every)

    if group is None:
        check(passes.all())
        return
    device = leaves_of(model)[0].device
    if not any(of_all(group, device, lambda: check(passes.all()))):
        own = next(passes.counting(), None)
        others = objects(group, tree_map_only(Tensor, Tensor.cpu, own))
        several = [tree_map_only(Tensor, lambda leaf: leaf.to(device), batch) for batch in others if batch is not None]
        of_all(group, device, lambda: check(several))


def _over_batches(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function beside another one that adds up itself; None where there is none."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    return getattr(module, f"{getattr(function, '__name__', '')}_over_batches", None)


def _require_options(function: Callable[..., Any], given: list[str], options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that a function does not take, and for those that it lacks.

    `given` names the arguments that it has besides.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys(given), **options)
    except TypeError as error:
        known = ", ".join(name for name in signature.parameters if name not in given) or "none"
        path = f"{getattr(function, '__module__', '')}.{name_of(function)}"
        raise ValueError(f"{path} cannot be called: {error}; its options over batches are: {known}") from error


class _WeighedBatches:
    """The batches as (criterion, inputs, targets), with criteria that are multiplied by the weights."""

    def __init__(self, criterion: Criterion, passes: Batches) -> None:
        self._criterion, self._passes = criterion, passes

    def __iter__(self) -> Iterator[tuple[Criterion, Any, Any]]:
        for weight, batch in self._passes:
            yield _times(weight, calls.completed(self._criterion, batch.targets)), batch.inputs, batch.targets


def _times(weight: float, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda outputs, targets: weight * criterion(outputs, targets)


def _function(method: ModuleType, quantity: str) -> Callable[..., Any]:
    function = getattr(method, quantity, None)
    if not callable(function):
        raise NotImplementedError(
            f"{getattr(method, '__name__', method)} has no function {quantity}: give a module of methods that has one"
        )
    return function
