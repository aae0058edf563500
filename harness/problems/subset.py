"""A problem in some of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems.errors import ProblemError
from harness.problems.method_helpers import calls, ravel
from harness.problems.problem import Problem


def subset(problem: Problem, count: int, seed: int) -> Problem:
    """The problem in `count` of its parameters, drawn at random; the others stay where they are.

    Its Hessian is a principal submatrix of the whole one, and each of its columns costs what one of the whole does.
    `sizes` holds how many of each parameter tensor are taken. Raises ProblemError where there are fewer parameters.
    """
    whole = problem.theta
    if not 1 <= count <= len(whole):
        raise ProblemError(f"subset={count} must be between 1 and the number of parameters, {len(whole)}")
    drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:count]
    index = drawn.sort().values.to(whole.device)
    ends = torch.tensor(problem.sizes, device=whole.device).cumsum(0)
    sizes = torch.bincount(torch.searchsorted(ends, index, right=True), minlength=len(ends)).tolist()
    outputs, closed_form = problem.outputs, problem.hessian

    def embed(theta: Tensor) -> Tensor:
        return whole.index_put((index,), theta)

    part = replace(
        problem,
        loss=lambda theta: problem.loss(embed(theta)),
        theta=whole[index],
        whole=problem.whole or len(whole),
        sizes=tuple(size for size in sizes if size),
        to=lambda device, dtype: subset(problem.to(device, dtype), count, seed),
        outputs=None if outputs is None else lambda theta: outputs(embed(theta)),
        hessian=None if closed_form is None else lambda: closed_form()[index][:, index],
        leaves=(),
        plain=None,
    )
    if problem.model is None or problem.criterion is None:
        return part
    model = _PartlyFixed(problem.model, whole[index], embed)
    if str(getattr(problem.criterion, "__module__", "")).startswith("torch.nn."):  # it cannot read the model
        return replace(part, model=model)
    return replace(part, model=model, criterion=model.seen_by(problem.criterion))


class _PartlyFixed(nn.Module):
    """A network with some of its parameters as one vector, the others fixed."""

    def __init__(self, model: nn.Module, theta: Tensor, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())
        self._model = [model]  # in a list, so that it is no part of this module
        self._embed = embed
        _, self._unravel = ravel.ravel(model)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the network."""
        given: Any = named if named else inputs
        return calls.call(self._model[0], self._held(), given)

    def _held(self) -> dict[str, Tensor]:
        """The network's parameters by name."""
        return self._unravel(self._embed(self.theta))

    def seen_by(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The criterion, evaluated while the network has this module's parameters, which it may read."""
        evaluate = calls.evaluator(self._model[0], criterion)
        return lambda outputs, targets: evaluate(self._held(), outputs, targets)
