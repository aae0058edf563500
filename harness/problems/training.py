"""A problem at the parameters that training leads to, instead of those that its builder drew."""

from __future__ import annotations

import torch

from harness.problems.errors import ProblemError, blamed
from harness.problems.problem import Problem

RATE = 0.01  # of Adam
CPU = torch.device("cpu")


def trained(problem: Problem, steps: int) -> Problem:
    """The problem after `steps` steps of Adam over all samples at once, with torch's defaults and a rate of 0.01.

    They are taken in float64 on the CPU, so that every dtype and device starts from the same point. Nothing in them is
    drawn: the builder's seed decides the result. The samples are those that the loss is evaluated on, and a network
    that could be trained further is left where it is.

    Raises ProblemError where the loss is no single number, is not finite at some step, does not depend on the
    parameters, or belongs to a problem that does not show its tensors; CodeError where the loss itself raises.
    """
    if not steps:
        return problem
    copy = problem.to(CPU, torch.float64)
    if not copy.leaves:
        raise ProblemError(
            f"train_steps={steps} cannot be had: the problem does not show the tensors that are its parameters; build "
            "it by harness.problems.from_network or from_function"
        )
    theta = copy.theta.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=RATE)
    for step in range(steps + 1):
        with blamed("the loss"):
            loss = copy.loss(theta)
        if loss.numel() != 1:
            raise ProblemError(
                f"train_steps={steps}: the loss must be a single number, found {tuple(loss.shape)}; take a criterion "
                "that reduces, say by the mean"
            )
        if not bool(loss.isfinite()):
            raise ProblemError(
                f"train_steps={steps}: the loss is {float(loss.detach())} after {step} steps of Adam (rate {RATE}); "
                "take fewer steps, or another problem"
            )
        if step < steps:
            _take(optimizer, loss, theta)
    with torch.no_grad():
        for leaf, part in zip(copy.leaves, theta.split(list(copy.sizes)), strict=True):
            leaf.copy_(part.view_as(leaf))
    return copy.to(CPU, torch.float64)


def _take(optimizer: torch.optim.Optimizer, loss: torch.Tensor, theta: torch.Tensor) -> None:
    """One step; raises ProblemError for a loss that has no gradient."""
    if not loss.requires_grad:
        raise ProblemError("train_steps cannot be had: the loss does not depend on the parameters")
    (theta.grad,) = torch.autograd.grad(loss, theta)
    optimizer.step()
