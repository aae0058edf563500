"""Whether a loss is the weighted sum of the losses of parts of its samples, as a loss over batches must be.

The gradient of the loss of some samples is compared with the weighted sum of the gradients of two parts of them,
parameter by parameter. In float64 that shows whatever makes the sum of Hessians wrong, even a penalty in the criterion
that is counted once for each batch and is a billionth of the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map_only

from methods import calls, samples
from methods.batching.divisors import Divisor, name_of
from methods.batching.gradients import Criterion, Gradients
from methods.factoring.comparison import LOOSEST, NOISE, ROUNDING, TOLERANCE
from methods.ravel import leaves_of
from methods.samples import Batch

MOVE = 0.01  # how far the parameters are moved, relative to their size: gradients vanish at an optimum
TRIED = 16  # splits of a batch that are tried, about, until there are targets that count in both parts
SAME = 1e-6  # relative difference of two evaluations that is rounding, or half of the digits where that is more


class _Part(NamedTuple):
    """Some samples of a batch or of two."""

    batch: Batch
    divisor: float  # what their mean divides by; 1 for a sum
    gradient: Tensor  # (P,) of their loss, in float64


def check(
    model: nn.Module, criterion: Criterion, batches: Iterable[Batch], divisor: Divisor | None, every: bool
) -> bool:
    """Raise NotImplementedError where the loss of some samples is not the weighted sum of the losses of two parts.

    Returns whether anything could be compared.

    Two comparisons are made for each batch that counts (`divisor`), or only the first one that is possible, unless
    `every` is set:

    - The batch is compared with two parts of it, if both have targets that count.
    - A part of the batch and one of the batch before, put together, are compared with each alone. This is left out
      where they cannot be put together, as tensors of different shapes.

    Where all are made, the divisors of all batches are right but for a factor that they share. Gradients that are not
    finite are not compared. Raises ValueError for a loss that is no scalar, and where the samples of a batch are not
    known.
    """
    comparison = _Comparison(model, criterion, divisor)
    before: _Part | None = None
    compared = False
    for batch in batches:
        if not _all_count([batch], divisor):
            continue
        _require_repeatable(model, criterion, batch)
        whole = comparison.part(batch)
        split = next((parts for parts in _splits(batch) if _all_count(parts, divisor)), None)
        parts = [whole] if split is None else [comparison.part(part) for part in split]
        if split is not None:
            comparison.require_sum(whole, parts)
        joined = None if before is None else _joined(before.batch, parts[0].batch)
        if before is not None and joined is not None and _all_count([joined], divisor):
            comparison.require_sum(comparison.part(joined), [before, parts[0]])
        compared |= split is not None or joined is not None
        if compared and not every:
            break
        before = parts[0]._replace(batch=tree_map_only(Tensor, Tensor.clone, parts[0].batch))  # no views of the batch
    return compared


def _all_count(parts: Iterable[Batch], divisor: Divisor | None) -> bool:
    """Whether each part has a weight that is not zero."""
    return divisor is None or all(divisor(*part) for part in parts)


def _splits(batch: Batch) -> Iterator[list[Batch]]:
    """The first samples and the others; at first parts of different size, so that wrong weights are noticed."""
    total = samples.count(batch.inputs)
    third, step = max(total // 3, 1), max(total // TRIED, 1)
    for cut in (*range(third, total, step), *range(1, third, step)):
        rows = slice(0, cut), slice(cut, total)
        yield [Batch(*(samples.taken(data, part, total) for data in batch)) for part in rows]


def _joined(one: Batch, other: Batch) -> Batch | None:
    """The samples of two batches in one; None where they cannot be put together."""
    try:
        return Batch(*(samples.joined(several) for several in zip(one, other, strict=True)))
    except ValueError:
        return None


def _require_repeatable(model: nn.Module, criterion: Criterion, batch: Batch) -> None:
    """Raise NotImplementedError where another evaluation of the loss has another value."""
    loss = calls.loss_of(model, calls.completed(criterion, batch.targets), *batch)
    with torch.enable_grad():  # the model may take a gradient within
        one, other = loss({}), loss({})
    if not isinstance(one, Tensor) or one.dim():
        found = f"a tensor {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
        raise ValueError(f"the loss must be a scalar, a tensor of shape (); {name_of(criterion)} gives {found}")
    if not torch.allclose(one, other, rtol=max(SAME, torch.finfo(one.dtype).eps ** 0.5), atol=0, equal_nan=True):
        raise NotImplementedError(
            f"the loss of a batch is another one at each call: it draws random numbers{_named(model, _DropoutNd)}; "
            "call model.eval()"
        )


class _Comparison:
    """Compares gradients of the loss of some samples with those of their parts, near the model's parameters."""

    def __init__(self, model: nn.Module, criterion: Criterion, divisor: Divisor | None) -> None:
        self._model, self._criterion, self._divisor = model, criterion, divisor
        self._gradients = Gradients(model, criterion)
        self._theta = _moved(self._gradients.theta)
        self._sizes = [leaf.numel() for leaf in leaves_of(model)]

    def part(self, batch: Batch) -> _Part:
        """Some samples with their gradient. Raises NotImplementedError where that cannot be computed."""
        try:
            gradient = self._gradients(batch, self._theta)
        except Exception as error:  # of any kind: it is the user's own code
            raise NotImplementedError(
                f"the loss cannot be split into batches: for {samples.count(batch.inputs)} of the samples its gradient "
                f"raises {type(error).__name__}: {error}. {_reason(self._model, self._criterion)}"
            ) from error
        return _Part(batch, 1.0 if self._divisor is None else self._divisor(*batch), gradient)

    def require_sum(self, whole: _Part, parts: Sequence[_Part]) -> None:
        """Raise NotImplementedError where the gradient of the whole is not the weighted sum of those of its parts."""
        terms = [part.divisor / whole.divisor * part.gradient for part in parts]
        if not whole.gradient.isfinite().all():
            return
        distance = self._norms(whole.gradient - sum(terms))
        size = sum(map(self._norms, terms), torch.zeros_like(distance))
        allowed = TOLERANCE[self._gradients.precision] * (size + ROUNDING * size.norm())
        if (distance <= allowed).all():
            return
        noise = NOISE * self._noise(whole)
        far = ~(distance <= torch.maximum(allowed, noise.clamp(max=LOOSEST * float(size.norm()))))
        if far.any():
            names = [name for name, parameter in self._model.named_parameters() if parameter.requires_grad]
            worst = int(torch.where(far, distance / size, -1.0).nan_to_num(nan=1.0).argmax())
            raise NotImplementedError(
                f"the loss cannot be split into batches: for {samples.count(whole.batch.inputs)} samples its gradient "
                f"in {names[worst]} differs by {float(distance[worst] / size[worst]):.1e} of its size from the "
                f"weighted sum over two parts of them. {_reason(self._model, self._criterion)}"
            )

    def _norms(self, vector: Tensor) -> Tensor:
        """The norm of the entries (P,) of each parameter tensor."""
        return torch.stack([part.norm() for part in vector.split(self._sizes)])

    def _noise(self, part: _Part) -> Tensor:
        """How far the gradient of each parameter moves with the last digits of the parameters."""
        last = torch.finfo(self._gradients.precision).eps * _drawn(self._theta)
        return self._norms(part.gradient - self._gradients(part.batch, self._theta.double() * (1 + last)))


def _moved(theta: Tensor) -> Tensor:
    """Parameters near theta, of the same signs; those that are zero are so no longer."""
    noise, size = _drawn(theta), theta.double().square().mean().sqrt() or 1.0
    return torch.where(theta == 0, MOVE * size * noise, theta * (1 + MOVE * noise)).to(theta)


def _drawn(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like.device)


def _reason(model: nn.Module, criterion: Any) -> str:
    """Why the loss may not be a sum over samples."""
    if found := _named(model, _BatchNorm):
        return f"It computes statistics of the batch{found}: call model.eval(), and track running statistics"
    if found := _named(model, _DropoutNd):
        return f"It draws random numbers{found}: call model.eval()"
    return (
        f"Either samples depend on each other in the model or in the criterion {name_of(criterion)}, or its mean does "
        "not divide by what was assumed: weights= may be a function of (inputs, targets) that returns it. A penalty on "
        "the parameters within the criterion is counted in each batch: add its Hessian once, to the result"
    )


def _named(model: nn.Module, kind: type[nn.Module]) -> str:
    """The modules of a kind that do what they do in train mode, for a message; empty where there are none."""
    found = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kind) and (module.training or getattr(module, "running_mean", 0) is None)
    ]
    return f" (in {', '.join(found)})" if found else ""
