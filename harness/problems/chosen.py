"""A network problem in the parameters whose names match patterns; the others stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.problems.casting import cast
from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.method_helpers import ravel
from harness.problems.problem import Problem


def chosen(problem: Problem, patterns: Sequence[str]) -> Problem:
    """The problem in those of its parameters that `methods.ravel.trainable` chooses, in a copy of its network.

    The other parameters of the copy do not require a gradient, so that every method sees the network as it is. The
    Hessian is a principal submatrix of the whole one. Raises ProblemError for a problem without a network, for a
    pattern that matches no name, and where all parameters that match are frozen.
    """
    asked = f"parameters={', '.join(patterns)} cannot be had"
    if problem.model is None:
        raise ProblemError(
            f"{asked}: the problem is a function, whose parameters have no names; take one that is a network, or give "
            "the parameters that are to be constant as data"
        )
    theta, closed_form = problem.theta, problem.hessian
    copied = cast((problem.model, problem.criterion, problem.inputs, problem.targets), theta.device, theta.dtype)
    model: torch.nn.Module = copied[0]
    try:
        kept = {id(parameter) for parameter in ravel.trainable(model, patterns).values()}
    except ValueError as error:
        raise ProblemError(str(error)) from error
    taken = torch.cat([torch.full((p.numel(),), id(p) in kept) for p in ravel.leaves_of(model)]).to(theta.device)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)
    return replace(
        from_network(*copied),
        to=lambda device, dtype: chosen(problem.to(device, dtype), patterns),
        whole=theta.numel(),
        hessian=None if closed_form is None else lambda: closed_form()[taken][:, taken],
        batch_sizes=problem.batch_sizes,
        batch_weights=problem.batch_weights,
    )
