"""Whether a loss is the weighted sum of the losses of parts of its samples, as a loss over batches must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from methods import calls, samples
from methods.batching.divisors import Divisor, name_of
from methods.batching.passes import Batch
from methods.ravel import ravel

MOVE = 0.01  # how far the parameters are moved for the second comparison, relative to their size
TRIED = 16  # splits of a batch that are tried, about, until there are targets that count in both parts
ROUNDING = 1e-6  # relative difference that counts as rounding, or half of the digits where that is more


def check(
    model: nn.Module,
    criterion: Callable[..., Tensor] | None,
    batches: Iterable[Batch],
    divisor: Divisor | None,
    every: bool,
) -> None:
    """Raise NotImplementedError where the loss of some samples is not the weighted sum of the losses of two parts.

    The samples are those of `every` batch of two or more, or of the first one; else of the first two batches. Their
    losses are compared at the model's parameters and at others. Batches that do not count (`divisor`) are passed over.
    Raises ValueError where it is not known what the samples of a batch are.
    """
    single: list[Batch] = []
    for batch in batches:
        total = samples.count(batch.inputs)
        parts = next((parts for parts in _splits(batch, total) if _counts(parts, divisor)), None)
        if total == 1 and len(single) < 2 and _counts([batch], divisor):
            single.append(batch)
            if len(single) == 2:
                batch = Batch(*(samples.joined(several) for several in zip(*single, strict=True)))
                parts = single
        if parts is not None:
            _require_sum(model, criterion, batch, parts, divisor)
            if not every:
                return


def _splits(batch: Batch, total: int) -> Iterator[list[Batch]]:
    """The first samples and the others; at first parts of different size, so that wrong weights are noticed."""
    third, step = max(total // 3, 1), max(total // TRIED, 1)
    for cut in (*range(third, total, step), *range(1, third, step)):
        rows = slice(0, cut), slice(cut, total)
        yield [Batch(*(samples.taken(data, part, total) for data in batch)) for part in rows]


def _counts(parts: Sequence[Batch], divisor: Divisor | None) -> bool:
    """Whether each part has a weight that is not zero."""
    return divisor is None or all(divisor(*part) for part in parts)


def _require_sum(
    model: nn.Module,
    criterion: Callable[..., Tensor] | None,
    whole: Batch,
    parts: Sequence[Batch],
    divisor: Divisor | None,
) -> None:
    """Raise NotImplementedError where the loss of the whole is not the weighted sum of those of its parts."""
    weights = [1.0] * len(parts)
    if divisor is not None:
        weights = [divisor(*part) / divisor(*whole) for part in parts]
    theta, unravel = ravel(model)
    rounding = max(ROUNDING, torch.finfo(theta.dtype).eps ** 0.5)

    def value(batch: Batch, at: Tensor) -> float:
        loss = calls.loss_of(model, calls.completed(criterion, batch.targets), batch.inputs, batch.targets)
        with torch.enable_grad():
            return float(loss(unravel(at.clone().requires_grad_())).detach())

    count = samples.count(whole.inputs)
    for at in (theta, _moved(theta)):
        expected = value(whole, at)
        if abs(value(whole, at) - expected) > rounding * abs(expected):
            raise NotImplementedError(
                f"the loss of a batch is another one at each call: it draws random numbers{_named(model, _DropoutNd)}; "
                "call model.eval()"
            )
        try:
            terms = [weight * value(part, at) for weight, part in zip(weights, parts, strict=True)]
        except Exception as error:  # of any kind: it is the user's own code
            raise NotImplementedError(
                f"the loss cannot be split into batches: for {count} samples it is {expected:.6g}, and for some of "
                f"them it raises {type(error).__name__}: {error}. {_reason(model, criterion)}"
            ) from error
        if abs(expected) < float("inf") and not abs(expected - sum(terms)) <= rounding * sum(map(abs, terms)):
            raise NotImplementedError(
                f"the loss cannot be split into batches: of {count} samples it is {expected:.9g}, and "
                f"{' + '.join(f'{term:.9g}' for term in terms)} from two parts of them. {_reason(model, criterion)}"
            )


def _moved(theta: Tensor) -> Tensor:
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(theta)
    return theta * (1 + MOVE) + MOVE * (theta.square().mean().sqrt() or 1.0) * noise


def _reason(model: nn.Module, criterion: Any) -> str:
    """Why the loss may not be a sum over samples."""
    if found := _named(model, _BatchNorm):
        return f"It computes statistics of the batch{found}: call model.eval(), and track running statistics"
    if found := _named(model, _DropoutNd):
        return f"It draws random numbers{found}: call model.eval()"
    return (
        f"Either samples depend on each other in the model or in the criterion {name_of(criterion)}, or its mean does "
        "not divide by what was assumed: weights= may be a function of (inputs, targets) that returns it"
    )


def _named(model: nn.Module, kind: type[nn.Module]) -> str:
    """The modules of a kind that do what they do in train mode, for a message; empty where there are none."""
    found = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kind) and (module.training or getattr(module, "running_mean", 0) is None)
    ]
    return f" (in {', '.join(found)})" if found else ""
