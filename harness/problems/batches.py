"""A problem whose samples are in batches: a method is called on each, and is judged by the loss over all samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.method_helpers import samples
from harness.problems.problem import Criterion, Problem, Weights


def from_batches(
    model: torch.nn.Module, criterion: Criterion | None, batches: samples.Source, weights: Weights = None
) -> Problem:
    """The problem of `criterion(model(inputs), targets)` over the samples of all batches.

    The batches are what `methods.batches` takes: (inputs, targets), or inputs alone. The harness keeps all samples in
    memory, and compares a method's sum over batches with the loss of one batch of all. `weights` says how batches are
    weighed where the criterion is none of torch.nn's: see `methods.batches`.

    Raises ProblemError where there are no batches, or they cannot be put together as one, and as `from_network` does.
    """
    try:
        parts = list(samples.batches(batches))
        if not parts:
            raise ValueError("there are no batches")
        inputs, targets = (samples.joined(several) for several in zip(*parts, strict=True))
        sizes = [samples.count(part.inputs) for part in parts]
    except ValueError as error:
        raise ProblemError(str(error)) from error
    return _batched(from_network(model, criterion, inputs, targets), sizes, weights)


def split(problem: Problem, count: int, weights: Weights = None) -> Problem:
    """The problem with its samples in `count` batches, the first ones a sample longer where they do not divide evenly.

    Raises ProblemError for a problem without a network or with fewer samples, and for inputs and targets whose samples
    are not known.
    """
    asked = f"batches={count} cannot be had"
    if problem.model is None:
        raise ProblemError(f"{asked}: the problem is a function, without samples; take one that is a network")
    try:
        total = samples.count(problem.inputs)
        for data in (problem.inputs, problem.targets):
            samples.taken(data, slice(0, 1), total)
    except ValueError as error:
        raise ProblemError(f"{asked}: {error}") from error
    if count > total:
        raise ProblemError(f"{asked}: there are only {total} samples")
    longer = total % count
    return _batched(problem, [total // count + (index < longer) for index in range(count)], weights)


def batches_of(problem: Problem) -> list[tuple[Any, Any]]:
    """The batches (inputs, targets) of a problem that has some, as views of its samples."""
    sizes = problem.batch_sizes or ()
    ends = list(itertools.accumulate(sizes))
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [
        (samples.taken(problem.inputs, part, ends[-1]), samples.taken(problem.targets, part, ends[-1])) for part in rows
    ]


def _batched(problem: Problem, sizes: Sequence[int], weights: Weights) -> Problem:
    return replace(
        problem,
        batch_sizes=tuple(sizes),
        batch_weights=weights,
        to=lambda device, dtype: _batched(problem.to(device, dtype), sizes, weights),
    )
